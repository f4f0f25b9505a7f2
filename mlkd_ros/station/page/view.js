// SPDX-License-Identifier: Apache-2.0
// Where the picture is on the stage: all of it, or a part, enlarged and moved. Screen coordinates are
// CSS pixels of the stage, picture coordinates shares of its width and height, 0 to 1.

const MOST = 12;

export class View {
  constructor() {
    this.stage = [16, 9];
    this.aspect = 16 / 9;
    this.zoom = 1;
    this.centre = [0.5, 0.5];
    this.place();
  }

  layout(width, height, aspect) {
    [this.stage, this.aspect] = [[width, height], aspect];
    this.place();
  }

  place() {
    const [w, h] = this.stage;
    const whole = Math.min(w, h * this.aspect);
    const width = whole * this.zoom;
    const height = width / this.aspect;
    // What is enlarged fills what the whole picture had, and as much of the stage as it can.
    const along = (middle, size, stage) => (size <= stage ? (stage - size) / 2 : Math.min(0, Math.max(stage - size, stage / 2 - middle * size)));
    this.rect = [along(this.centre[0], width, w), along(this.centre[1], height, h), width, height];
    this.centre = [(w / 2 - this.rect[0]) / width, (h / 2 - this.rect[1]) / height];
  }

  // The part of the stage that shows picture: [x, y, w, h].
  get inside() {
    const [x, y, w, h] = this.rect;
    const [left, top] = [Math.max(x, 0), Math.max(y, 0)];
    return [left, top, Math.min(x + w, this.stage[0]) - left, Math.min(y + h, this.stage[1]) - top];
  }

  toScreen(u, v) { const [x, y, w, h] = this.rect; return [x + u * w, y + v * h]; }
  toPicture(a, b) { const [x, y, w, h] = this.rect; return [(a - x) / w, (b - y) / h]; }

  // Enlarge by a factor; what is at `from` on the screen goes to `to`.
  zoomBy(factor, from, to = from) {
    const [u, v] = this.toPicture(...from);
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), MOST);
    const width = Math.min(this.stage[0], this.stage[1] * this.aspect) * this.zoom;
    this.centre = [u + (this.stage[0] / 2 - to[0]) / width, v + ((this.stage[1] / 2 - to[1]) * this.aspect) / width];
    this.place();
  }

  moveBy(dx, dy) {
    this.centre = [this.centre[0] - dx / this.rect[2], this.centre[1] - dy / this.rect[3]];
    this.place();
  }

  all() { this.zoom = 1; this.centre = [0.5, 0.5]; this.place(); }
}
