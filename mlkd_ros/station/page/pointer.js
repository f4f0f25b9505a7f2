// SPDX-License-Identifier: Apache-2.0
// Marking and looking, by mouse, finger and keyboard. The picture is held from the moment of
// pressing, and what is marked counts for that very picture.
//
// A finger rolls a little when it taps: what is shorter than a few millimetres is a tap.

// CSS pixels a millimetre: 96 to the inch at a desk; on a phone an inch has some 150 of them.
const PER_MM = { mouse: 96 / 25.4, touch: 150 / 25.4, pen: 150 / 25.4 };
const DRAG_MM = { mouse: 1.2, touch: 2.5, pen: 1.5 };
const THIN_MM = 0.8; // a thinner box is no box
const RESTS_MS = 800; // a pointer that rests shows no preview
const STEP = 0.01; // of the picture's width, for the arrow keys
const KEY_BOX = 0.06;

export class Pointer {
  // act: {may() -> reason or "", press(), release(), tap(point, touch), drag(box), refuse(text)}.
  constructor(canvas, view, act, redraw) {
    Object.assign(this, { canvas, view, act, redraw });
    this.drag = null; // {pointer, kind, from, to}
    this.fingers = new Map();
    this.pinch = null;
    this.pan = null;
    this.hover = null;
    this.resting = 0;
    this.kind = window.matchMedia("(pointer: coarse)").matches ? "touch" : "mouse"; // used last
    this.keyed = null; // a box marked by keyboard: {u, v, w, h}, shares of the picture
    const on = (name, act_, options) => canvas.addEventListener(name, act_, options);
    on("pointerdown", (event) => this.down(event));
    on("pointermove", (event) => this.move(event));
    on("pointerup", (event) => this.up(event));
    on("pointercancel", (event) => { this.fingers.delete(event.pointerId); this.end(); });
    on("pointerleave", () => { this.hover = null; redraw(); });
    on("contextmenu", (event) => { event.preventDefault(); this.end(); });
    on("wheel", (event) => {
      event.preventDefault();
      view.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), this.at(event));
      redraw(true);
    }, { passive: false });
  }

  at(event) {
    const area = this.canvas.getBoundingClientRect();
    return [event.clientX - area.left, event.clientY - area.top];
  }

  within([x, y]) {
    const [left, top, w, h] = this.view.inside;
    return [Math.min(Math.max(x, left), left + w), Math.min(Math.max(y, top), top + h)];
  }

  down(event) {
    const at = this.at(event);
    this.kind = event.pointerType;
    this.canvas.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") {
      this.fingers.set(event.pointerId, at);
      if (this.fingers.size > 1) { this.end(); this.pinch = this.span(); return; }
      if (this.pinch) return; // one finger of a pinch is still there
    } else if (event.button === 1 || (event.button === 0 && event.shiftKey)) {
      event.preventDefault();
      this.pan = { pointer: event.pointerId, at };
      return;
    }
    if (this.drag || event.button !== 0) { this.end(); return; }
    const [left, top, w, h] = this.view.inside;
    if (at[0] < left || at[1] < top || at[0] > left + w || at[1] > top + h) return;
    event.preventDefault();
    const reason = this.act.may();
    if (reason) { this.act.refuse(reason); return; }
    this.keyed = null;
    if (!this.act.press()) return;
    this.drag = { pointer: event.pointerId, kind: event.pointerType, from: at, to: at };
    this.redraw();
  }

  // Middle of the fingers, and how far they are apart.
  span() {
    const [a, b] = [...this.fingers.values()];
    return { middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], apart: Math.max(Math.hypot(a[0] - b[0], a[1] - b[1]), 20) };
  }

  move(event) {
    const at = this.at(event);
    if (this.fingers.has(event.pointerId)) this.fingers.set(event.pointerId, at);
    if (this.pinch) {
      if (this.fingers.size < 2) return;
      const now = this.span();
      this.view.zoomBy(now.apart / this.pinch.apart, this.pinch.middle, now.middle);
      this.pinch = now;
      this.redraw(true);
    } else if (this.pan?.pointer === event.pointerId) {
      this.view.moveBy(at[0] - this.pan.at[0], at[1] - this.pan.at[1]);
      this.pan.at = at;
      this.redraw(true);
    } else if (this.drag?.pointer === event.pointerId) {
      this.drag.to = this.within(at);
      this.redraw();
    } else if (event.pointerType === "mouse") {
      this.hover = at;
      clearTimeout(this.resting);
      this.resting = setTimeout(() => { this.hover = null; this.redraw(); }, RESTS_MS);
      this.redraw();
    }
  }

  up(event) {
    this.fingers.delete(event.pointerId);
    if (this.pan?.pointer === event.pointerId) this.pan = null;
    if (this.pinch) { if (!this.fingers.size) this.pinch = null; return; }
    if (this.drag?.pointer !== event.pointerId) return;
    const { kind, from } = this.drag;
    this.hover = null;
    if (!this.far()) {
      this.drag = null;
      this.act.tap(from, kind !== "mouse");
      return;
    }
    const box = this.box();
    this.drag = null;
    if (Math.min(box[2], box[3]) < THIN_MM * PER_MM[kind]) { this.act.release(); this.act.refuse("That box is too thin: drag from corner to corner, or tap the target."); } else this.act.drag(box);
    this.redraw();
  }

  // Whether the way is longer than a tap's.
  far() {
    const { kind, from, to } = this.drag;
    return Math.hypot(to[0] - from[0], to[1] - from[1]) > DRAG_MM[kind] * PER_MM[kind];
  }

  box() {
    const { from, to } = this.drag;
    return [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1])];
  }

  // Never mind.
  end() {
    const was = this.drag || this.keyed;
    this.drag = this.keyed = null;
    if (was) this.act.release();
    this.redraw();
    return Boolean(was);
  }

  // What is being marked, for drawing; null: nothing.
  get mark() {
    if (this.keyed) return { box: this.keyBox(), at: this.view.toScreen(this.keyed.u, this.keyed.v) };
    if (!this.drag) return null;
    const touch = this.drag.kind !== "mouse";
    if (!this.far()) return { point: this.drag.from, touch, at: this.drag.from };
    return { box: this.box(), touch, at: this.drag.to };
  }

  // --- by keyboard ---------------------------------------------------------------------------

  keyBox() {
    const { u, v, w, h } = this.keyed;
    const [left, top] = this.view.toScreen(u - w / 2, v - h / 2);
    return [left, top, w * this.view.rect[2], h * this.view.rect[3]];
  }

  startKeys() {
    if (this.keyed) { this.end(); return; }
    const reason = this.act.may();
    if (reason) { this.act.refuse(reason); return; }
    if (!this.act.press()) return;
    const [x, y, w, h] = this.view.inside;
    const [u, v] = this.view.toPicture(x + w / 2, y + h / 2);
    const side = KEY_BOX / this.view.zoom;
    this.keyed = { u, v, w: side, h: side * this.view.aspect };
    this.canvas.focus({ preventScroll: true });
    this.redraw();
  }

  // Whether a key was for the box.
  key(event) {
    if (!this.keyed) return false;
    const step = (STEP * (event.shiftKey ? 5 : 1)) / this.view.zoom;
    const one = this.keyed;
    const grow = (factor) => { one.w = Math.min(one.w * factor, 0.9); one.h = Math.min(one.h * factor, 0.9); };
    const acts = {
      ArrowLeft: () => { one.u -= step; }, ArrowRight: () => { one.u += step; },
      ArrowUp: () => { one.v -= step * this.view.aspect; }, ArrowDown: () => { one.v += step * this.view.aspect; },
      "+": () => grow(1.15), "=": () => grow(1.15), "-": () => grow(1 / 1.15),
      Enter: () => { const box = this.keyBox(); this.keyed = null; this.act.drag(box); },
      " ": () => { const at = this.view.toScreen(one.u, one.v); this.keyed = null; this.act.tap(at, false); },
    };
    if (!acts[event.key]) return false;
    acts[event.key]();
    one.u = Math.min(Math.max(one.u, 0), 1);
    one.v = Math.min(Math.max(one.v, 0), 1);
    event.preventDefault();
    this.redraw();
    return true;
  }
}
