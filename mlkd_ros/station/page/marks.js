// SPDX-License-Identifier: Apache-2.0
// What is drawn over the video: light, outlined in dark, and never over a target itself. The same as
// the tracker's overlay: corners, trail, state and number; a border and the place where it is
// expected for a target that is lost; a small one enlarged.

import { COLOURS, age, look, seconds } from "./words.js";

const FONT = "system-ui, 'DejaVu Sans', sans-serif";
const CHI_95 = Math.sqrt(5.991); // radius of the ellipse that holds 95 %, in standard deviations
const SMALL = 48; // pixels on the screen: smaller targets are shown enlarged
const ENLARGED = 1.5; // at the least, or it is not worth its place
const DARK = "rgb(0 0 0 / 75%)";

export class Marks {
  constructor(canvas, view) {
    this.canvas = canvas;
    this.view = view;
    this.pen = canvas.getContext("2d");
    this.taken = []; // rectangles on the screen that must stay free: [x, y, w, h]
  }

  begin() {
    const density = window.devicePixelRatio || 1;
    const [w, h] = this.view.stage;
    const [width, height] = [Math.round(w * density), Math.round(h * density)];
    if (this.canvas.width !== width || this.canvas.height !== height) [this.canvas.width, this.canvas.height] = [width, height];
    this.pen.setTransform(density, 0, 0, density, 0, 0);
    this.pen.clearRect(0, 0, w, h);
    this.taken = [];
  }

  // On the screen, from pixels of the camera's image.
  box([x, y, w, h], [width, height]) {
    const [left, top] = this.view.toScreen(x / width, y / height);
    const [right, bottom] = this.view.toScreen((x + w) / width, (y + h) / height);
    return [left, top, right - left, bottom - top];
  }

  targets(scene) {
    const said = scene.shown?.statuses ?? [];
    const lines = [];
    for (const status of said) {
      const one = scene.targets.get(status.target_id);
      if (!one) continue;
      const { key, word } = look(status);
      const name = scene.targets.size > 1 ? `${status.target_id} ` : "";
      const bold = scene.targets.size > 1 && scene.subject === status.target_id;
      this.trail(one.trail, COLOURS[key]);
      if (status.box) {
        const box = this.box(status.box, status.image_size);
        this.corners(box, COLOURS[key], bold);
        this.label(`${name}${word} ${status.confidence.toFixed(2)}`, box, COLOURS[key]);
      } else if (status.state === "LOST") {
        lines.push([`${name}LOST ${seconds(scene.lostFor(status))}${status.seconds_to_give_up === null ? "" : `, given up in ${seconds(status.seconds_to_give_up)}`}`, COLOURS.LOST]);
        if (one.seen) this.lastPlace(one.seen);
        if (status.expected) this.expected(status, name);
      } else lines.push([`${name}${word}${status.state === "GIVEN_UP" ? ": mark it again" : ": no box now"}`, COLOURS[key]]);
    }
    if (said.length && said.every((status) => status.state === "LOST")) this.border(COLOURS.LOST);
    lines.forEach(([text, colour], row) => this.write(text, this.view.inside[0] + 12, this.view.inside[1] + 28 + 26 * row, colour, 18));
  }

  border(colour) {
    const [x, y, w, h] = this.view.inside;
    this.pen.setLineDash([]);
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = 5;
    this.pen.strokeRect(x + 2.5, y + 2.5, w - 5, h - 5);
  }

  corners([x0, y0, w0, h0], colour, bold = false) {
    const gap = 3; // a small target stays visible
    const [x, y, w, h] = [x0 - gap, y0 - gap, w0 + 2 * gap, h0 + 2 * gap];
    this.taken.push([x, y, w, h]);
    const arm = Math.max(6, Math.min(w, h) * 0.3);
    const path = new Path2D();
    for (const [cx, cy, right, down] of [[x, y, 1, 1], [x + w, y, -1, 1], [x, y + h, 1, -1], [x + w, y + h, -1, -1]]) {
      path.moveTo(cx + right * Math.min(arm, w / 2), cy);
      path.lineTo(cx, cy);
      path.lineTo(cx, cy + down * Math.min(arm, h / 2));
    }
    this.stroke(path, colour, bold ? 3.5 : 2.5);
  }

  stroke(path, colour, width, dash = []) {
    const pen = this.pen;
    pen.lineCap = pen.lineJoin = "round";
    pen.setLineDash(dash);
    for (const [ink, thickness] of [[DARK, width + 2.5], [colour, width]]) {
      pen.strokeStyle = ink;
      pen.lineWidth = thickness;
      pen.stroke(path);
    }
    pen.setLineDash([]);
  }

  label(text, [x, y, w, h], colour) {
    this.pen.font = `600 15px ${FONT}`;
    const width = this.pen.measureText(text).width;
    const [left, top, across, down] = this.view.inside;
    const above = y - top > 30 && !this.taken.slice(0, -1).some(([a, b, c]) => x < a + c && x + width > a && Math.abs(y - 20 - b) < 24);
    const base = above ? y - 10 : Math.min(y + h + 22, top + down - 6);
    const at = Math.min(Math.max(x, left + 4), left + across - width - 4);
    this.taken.push([at, base - 16, width, 20]);
    this.write(text, at, base, colour, 15);
  }

  write(text, x, y, colour, size) {
    const pen = this.pen;
    pen.font = `600 ${size}px ${FONT}`;
    pen.textBaseline = "alphabetic";
    pen.lineJoin = "round";
    pen.lineWidth = 4;
    pen.strokeStyle = "rgb(0 0 0 / 85%)";
    pen.strokeText(text, x, y);
    pen.fillStyle = colour;
    pen.fillText(text, x, y);
  }

  trail(points, colour) {
    const pen = this.pen;
    pen.lineWidth = 1.5;
    pen.strokeStyle = colour;
    points.slice(1).forEach((point, index) => {
      const before = points[index];
      if (!point.place || !before.place) return;
      pen.globalAlpha = ((index + 1) / points.length) * 0.8;
      pen.beginPath();
      pen.moveTo(...this.view.toScreen(...before.place));
      pen.lineTo(...this.view.toScreen(...point.place));
      pen.stroke();
    });
    pen.globalAlpha = 1;
  }

  // Where it was seen last, in that picture.
  lastPlace({ box, image_size }) {
    const [x, y, w, h] = this.box(box, image_size);
    const path = new Path2D();
    path.rect(x - 3, y - 3, w + 6, h + 6);
    this.taken.push([x - 3, y - 3, w + 6, h + 6]);
    this.stroke(path, COLOURS.LOST, 1.5, [4, 5]);
  }

  // Where it should be, and how far from there it may be; an arrow where that is off the screen.
  expected({ expected, covariance, image_size }, name) {
    const [x, y] = this.view.toScreen(expected[0] / image_size[0], expected[1] / image_size[1]);
    const factor = this.view.rect[2] / image_size[0];
    const pen = this.pen;
    const [left, top, w, h] = this.view.inside;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, w, h);
    pen.clip();
    if (covariance) {
      const [a, b, , d] = covariance;
      const spread = Math.sqrt(((a - d) / 2) ** 2 + b * b);
      const [major, minor] = [(a + d) / 2 + spread, Math.max((a + d) / 2 - spread, 0)];
      const path = new Path2D();
      path.ellipse(x, y, CHI_95 * Math.sqrt(major) * factor, CHI_95 * Math.sqrt(minor) * factor, Math.atan2(2 * b, a - d) / 2, 0, 2 * Math.PI);
      this.stroke(path, COLOURS.LOST, 1.5, [10, 6]);
    }
    const cross = new Path2D();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { cross.moveTo(x + 5 * dx, y + 5 * dy); cross.lineTo(x + 13 * dx, y + 13 * dy); }
    this.stroke(cross, COLOURS.LOST, 2);
    pen.restore();
    const inside = x > left && x < left + w && y > top && y < top + h;
    if (inside) { this.taken.push([x - 14, y - 14, 28, 28]); return; }
    const [cx, cy] = [Math.min(Math.max(x, left + 26), left + w - 26), Math.min(Math.max(y, top + 44), top + h - 44)]; // clear of what is written there
    const angle = Math.atan2(y - cy, x - cx);
    const arrow = new Path2D();
    arrow.moveTo(cx - 14 * Math.cos(angle), cy - 14 * Math.sin(angle));
    arrow.lineTo(cx + 12 * Math.cos(angle), cy + 12 * Math.sin(angle));
    for (const turn of [2.5, -2.5]) { arrow.moveTo(cx + 12 * Math.cos(angle), cy + 12 * Math.sin(angle)); arrow.lineTo(cx + 12 * Math.cos(angle) + 10 * Math.cos(angle + turn), cy + 12 * Math.sin(angle) + 10 * Math.sin(angle + turn)); }
    this.taken.push([cx - 20, cy - 20, 40, 40]);
    this.stroke(arrow, COLOURS.LOST, 3);
    if (name) this.write(name, cx - 6, cy + 32, COLOURS.LOST, 14);
  }

  // What is being marked: a box on the screen, or a point.
  marking(mark) {
    if (mark.point) {
      const [x, y] = mark.point;
      const path = new Path2D();
      path.arc(x, y, 16, 0, 2 * Math.PI);
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { path.moveTo(x + 8 * dx, y + 8 * dy); path.lineTo(x + 24 * dx, y + 24 * dy); }
      this.taken.push([x - 24, y - 24, 48, 48]);
      this.stroke(path, "#ffffff", 1.5);
    }
    if (mark.box) {
      const path = new Path2D();
      path.rect(...mark.box);
      this.taken.push(mark.box);
      this.stroke(path, mark.fitted ? COLOURS.TRACKING : "#ffffff", 2, mark.fitted ? [6, 4] : []);
    }
  }

  pictureAge(value) {
    if (value === null) return;
    const [x, y, , h] = this.view.inside;
    const late = value > 1;
    this.write(age(value), x + 10, y + h - 10, late ? COLOURS.UNCERTAIN : "#d3dbe3", 14);
    this.taken.push([x + 8, y + h - 26, this.pen.measureText(age(value)).width + 4, 20]);
  }

  // Where the enlarged target or what is under the finger goes, and what it shows: {to, from}, or
  // null. `to` is on the screen, `from` in shares of the picture.
  magnifier(scene, mark, wanted) {
    const [left, top, w, h] = this.view.inside;
    const side = Math.round(Math.min(w, h) * 0.3);
    if (side < 64) return null;
    let [centre, reach, colour] = [null, 0, "#ffffff"];
    if (mark?.touch && mark.box) {
      centre = mark.at;
      reach = side / 4;
    } else if (wanted && !mark && scene.shown && scene.targets.size === 1) {
      const status = scene.shown.statuses.find((one) => one.box && scene.targets.has(one.target_id));
      if (!status) return null;
      const box = this.box(status.box, status.image_size);
      if (Math.max(box[2], box[3]) >= SMALL) return null;
      centre = [box[0] + box[2] / 2, box[1] + box[3] / 2];
      reach = Math.max(0.8 * Math.max(box[2], box[3]), 12);
      if (side < ENLARGED * 2 * reach) return null;
      colour = COLOURS[look(status).key];
    } else return null;
    const spots = [[left + w - side - 8, top + 8], [left + 8, top + 8], [left + w - side - 8, top + h - side - 8], [left + 8, top + h - side - 30]];
    const clear = (at) => ![[centre[0] - reach, centre[1] - reach, 2 * reach, 2 * reach], ...this.taken].some((one) => overlap([...at, side, side], one));
    const spot = spots.find(clear);
    if (!spot) return null;
    const [x0, y0] = this.view.toPicture(centre[0] - reach, centre[1] - reach);
    const [x1, y1] = this.view.toPicture(centre[0] + reach, centre[1] + reach);
    const to = [...spot, side, side];
    this.taken.push(to);
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = 2;
    this.pen.strokeRect(...to);
    return { to, from: [x0, y0, x1 - x0, y1 - y0] };
  }
}

export const overlap = ([x, y, w, h], [a, b, c, d]) => x < a + c && a < x + w && y < b + d && b < y + h;
