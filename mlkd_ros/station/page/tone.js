// SPDX-License-Identifier: Apache-2.0
// The picture on the screen: denoised, tone-mapped, scaled. With WebGL 2, in four small passes.
//
// A night picture is dark but for its lamps. Multiplied, the lamps run together; so the picture is
// split into a base, smooth but for strong edges (a guided filter: He, Sun, Tang 2013, its
// coefficients at an eighth of the size: He, Sun 2015), and the detail on it. The base goes through
// a logarithmic curve (Drago et al. 2003), which lifts shadows and leaves lamps where they are; the
// detail is lifted with it, less what is noise (a bilateral filter: Tomasi, Manduchi 1998).

const VERTEX = `#version 300 es
in vec2 at; out vec2 uv; uniform vec4 part;
void main() { uv = part.xy + part.zw * (at * 0.5 + 0.5); gl_Position = vec4(at, 0.0, 1.0); }`;

const HEAD = `#version 300 es
precision highp float; in vec2 uv; out vec4 result;
float light(vec3 c) { return dot(c, vec3(0.299, 0.587, 0.114)); }
`;

// The root of the brightness, averaged over 8 x 8 pixels: dark values keep their steps in 8 bits.
const SHRINK = `${HEAD}uniform sampler2D image; uniform vec2 pixel;
void main() {
  float sum = 0.0;
  for (int y = -2; y < 2; y++) for (int x = -2; x < 2; x++)
    sum += light(texture(image, uv + (vec2(x, y) * 2.0 + 1.0) * pixel).rgb);
  result = vec4(vec3(sqrt(sum / 16.0)), 1.0);
}`;

// Coefficients of the guided filter: base = a * brightness + b.
const GUIDE = `${HEAD}uniform sampler2D small; uniform vec2 pixel;
void main() {
  float sum = 0.0, squares = 0.0;
  for (int y = -2; y <= 2; y++) for (int x = -2; x <= 2; x++) {
    float v = texture(small, uv + vec2(x, y) * pixel).r;
    sum += v; squares += v * v;
  }
  float mean = sum / 25.0, a = max(squares / 25.0 - mean * mean, 0.0);
  a = a / (a + 0.0025);
  result = vec4(a, (1.0 - a) * mean, 0.0, 1.0);
}`;

const TONE = `${HEAD}uniform sampler2D image, guide; uniform vec2 pixel, coarse; uniform float lift; uniform int reach;
float curve(float v) { return log(1.0 + lift * v) / log(1.0 + lift); }
// The lowest row of a decoded H.264 picture comes out green in some browsers: that above it is shown.
vec3 seen(vec2 p) { return texture(image, min(p, 1.0 - 1.5 * pixel)).rgb; }
void main() {
  vec3 here = seen(uv);
  if (lift < 0.01) { result = vec4(here, 1.0); return; }
  vec2 ab = vec2(0.0); float near = 0.0;
  for (int y = -1; y <= 1; y++) for (int x = -1; x <= 1; x++) {
    if (reach == 0 && (x != 0 || y != 0)) continue;
    ab += texture(guide, uv + vec2(x, y) * coarse).rg; near += 1.0;
  }
  ab /= near;
  // Noise is what the lift makes visible: the more it lifts here, the more is averaged.
  float dark = 1.0 - smoothstep(0.05, 0.45, ab.x * sqrt(light(here)) + ab.y);
  float middle = sqrt(light(here)), wide = mix(0.02, 0.075, dark);
  vec3 sum = here; float weights = 1.0;
  for (int y = -2; y <= 2; y++) for (int x = -2; x <= 2; x++) {
    if (abs(x) > reach || abs(y) > reach || abs(x) + abs(y) > 3 || (x == 0 && y == 0)) continue;
    vec3 c = seen(uv + vec2(x, y) * pixel);
    float d = (sqrt(light(c)) - middle) / wide, w = exp(-0.5 * d * d - 0.14 * float(x * x + y * y));
    sum += c * w; weights += w;
  }
  vec3 clean = sum / weights;
  float v = light(clean), root = sqrt(v), base = clamp(ab.x * root + ab.y, 0.0, 1.0);
  base = max(base * base, 0.0008);
  float gain = curve(base) / base;
  float lifted = curve(base) + (v - base) * min(gain, 7.0);
  vec3 colour = clean * (max(lifted, 0.0) / max(v, 0.004));
  float grey = light(colour);
  result = vec4(mix(vec3(grey), colour, mix(1.0, 0.7, dark)), 1.0);
}`;

const SHOW = `${HEAD}uniform sampler2D image;
void main() { result = vec4(texture(image, uv).rgb, 1.0); }`;

// How much is lifted, so that this share of the picture's brightness (98th percentile) gets there.
const GOALS = { off: 0, auto: 0.52, strong: 0.72 };
const DARKEST = 0.05; // taken for no darker: noise would be all there is to see
const MEASURE_EVERY = 5; // pictures
const SLOW_MS = 120; // a picture that takes longer until it is drawn is averaged over fewer pixels
const FOLLOWS = 0.3; // share of the new brightness, so that a passing lamp does not make it flicker

export class Screen {
  constructor(canvas) {
    this.canvas = canvas;
    this.size = [0, 0];
    this.mode = "auto";
    this.lift = 0;
    this.white = null;
    this.count = 0;
    this.reach = 2; // pixels that are averaged against noise: fewer on a slow machine
    this.asked = null; // {fence, at, size}: the brightness is on its way back from the graphics card
    this.slow = 0; // measurements in a row
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, preserveDrawingBuffer: true, powerPreference: "low-power" });
    this.gl = gl;
    if (!gl) { this.plain = canvas.getContext("2d", { alpha: false }); return; }
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { this.size = [0, 0]; this.build(); });
    this.build();
  }

  get able() { return Boolean(this.gl); }

  build() {
    const gl = this.gl;
    this.programs = Object.fromEntries(Object.entries({ SHRINK, GUIDE, TONE, SHOW }).map(([name, source]) => [name, program(gl, source)]));
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
    this.image = texture(gl);
    this.small = layer(gl);
    this.guide = layer(gl);
    this.toned = layer(gl);
    this.back = gl.createBuffer();
    this.asked = null;
  }

  // A new picture: an ImageBitmap or a VideoFrame.
  upload(source, [width, height]) {
    const gl = this.gl;
    if (!gl) { this.source = source; return; }
    gl.bindTexture(gl.TEXTURE_2D, this.image);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, source);
    if (this.size[0] !== width || this.size[1] !== height) {
      this.size = [width, height];
      const coarse = [Math.ceil(width / 8), Math.ceil(height / 8)];
      resize(gl, this.small, coarse);
      resize(gl, this.guide, coarse);
      resize(gl, this.toned, [width, height]);
    }
    const measured = this.asked === null && this.count++ % MEASURE_EVERY === 0;
    const at = performance.now();
    this.tone(measured);
    if (measured) this.ask(at);
  }

  // Have the brightness read back; nothing waits for it, or the next picture would be late.
  ask(at) {
    const { gl, small } = this;
    const size = 4 * small.width * small.height;
    gl.bindFramebuffer(gl.FRAMEBUFFER, small.buffer);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, this.back);
    gl.bufferData(gl.PIXEL_PACK_BUFFER, size, gl.STREAM_READ);
    gl.readPixels(0, 0, small.width, small.height, gl.RGBA, gl.UNSIGNED_BYTE, 0);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    this.asked = { fence: gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0), at, size };
    gl.flush();
  }

  // To be called in every frame: takes what was asked for, once it is there.
  poll() {
    const { gl, asked } = this;
    if (!asked || gl.getSyncParameter(asked.fence, gl.SYNC_STATUS) !== gl.SIGNALED) return false;
    this.asked = null;
    gl.deleteSync(asked.fence);
    this.slow = this.lift > 0 && performance.now() - asked.at > SLOW_MS ? this.slow + 1 : 0;
    if (this.slow > 1 && this.reach > 0) { this.reach -= 1; this.slow = 0; }
    const pixels = new Uint8Array(asked.size);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, this.back);
    gl.getBufferSubData(gl.PIXEL_PACK_BUFFER, 0, pixels);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    return this.measure(pixels);
  }

  // Other settings for the same picture.
  setMode(mode) {
    this.mode = mode;
    this.setLift();
    if (this.gl && this.size[0]) this.tone();
  }

  // From RGBA whose red is the root of the brightness. Whether it is the first, so that the picture
  // that is shown waits for it.
  measure(pixels) {
    const values = pixels.filter((_, index) => index % 4 === 0).sort();
    const white = Math.max((values[Math.floor(values.length * 0.98)] / 255) ** 2, DARKEST);
    const first = this.white === null;
    this.white = first ? white : this.white + FOLLOWS * (white - this.white);
    this.setLift();
    if (first) this.tone();
    return first;
  }

  setLift() {
    const goal = GOALS[this.mode] ?? 0;
    if (this.white === null || this.white >= goal) { this.lift = 0; return; }
    let [low, high] = [0.01, 2000];
    for (let i = 0; i < 24; i++) {
      const middle = Math.sqrt(low * high);
      if (Math.log(1 + middle * this.white) / Math.log(1 + middle) < goal) low = middle; else high = middle;
    }
    this.lift = low;
  }

  pass(name, target, [width, height], inputs, values, part = [0, 0, 1, 1]) {
    const gl = this.gl;
    const { program: used, places } = this.programs[name];
    gl.useProgram(used);
    gl.bindFramebuffer(gl.FRAMEBUFFER, target);
    gl.viewport(0, 0, width, height);
    Object.entries(inputs).forEach(([key, value], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, value);
      gl.uniform1i(places(key), unit);
    });
    for (const [key, value] of Object.entries(values)) {
      if (key === "reach") gl.uniform1i(places(key), value);
      else if (typeof value === "number") gl.uniform1f(places(key), value); else gl.uniform2f(places(key), ...value);
    }
    gl.uniform4f(places("part"), ...part);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  tone(measured = false) {
    const [width, height] = this.size;
    const coarse = [this.small.width, this.small.height];
    const pixel = [1 / width, 1 / height];
    const step = [1 / coarse[0], 1 / coarse[1]];
    if (this.lift > 0 || measured) this.pass("SHRINK", this.small.buffer, coarse, { image: this.image }, { pixel });
    if (this.lift > 0) {
      this.pass("GUIDE", this.guide.buffer, coarse, { small: this.small.texture }, { pixel: step });
    }
    this.pass("TONE", this.toned.buffer, this.size, { image: this.image, guide: this.guide.texture }, { pixel, coarse: step, lift: this.lift, reach: this.reach });
    this.gl.activeTexture(this.gl.TEXTURE0);
  }

  // Draw views of the picture: each {to: [x, y, w, h] in canvas pixels, from: [x, y, w, h] as shares
  // of the picture}, from the top left.
  draw(views) {
    const gl = this.gl;
    const { width, height } = this.canvas;
    if (!gl) { this.drawPlain(views); return; }
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(0, 0, 0, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!this.size[0]) return;
    const { program: used, places } = this.programs.SHOW;
    gl.useProgram(used);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.toned.texture);
    gl.uniform1i(places("image"), 0);
    for (const { to, from } of views) {
      gl.viewport(Math.round(to[0]), Math.round(height - to[1] - to[3]), Math.round(to[2]), Math.round(to[3]));
      // Rows of a texture begin at the top here, those of the screen at the bottom.
      gl.uniform4f(places("part"), from[0], from[1] + from[3], from[2], -from[3]);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
  }

  drawPlain(views) {
    this.plain.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.source) return;
    const w = this.source.displayWidth ?? this.source.width;
    const h = this.source.displayHeight ?? this.source.height;
    for (const { to, from } of views) this.plain.drawImage(this.source, from[0] * w, from[1] * h, from[2] * w, from[3] * h, ...to);
  }
}

function program(gl, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.bindAttribLocation(made, 0, "at");
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(made));
  const found = new Map();
  return {
    program: made,
    places: (name) => { if (!found.has(name)) found.set(name, gl.getUniformLocation(made, name)); return found.get(name); },
  };
}

function texture(gl) {
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  for (const [key, value] of [["TEXTURE_MIN_FILTER", "LINEAR"], ["TEXTURE_MAG_FILTER", "LINEAR"], ["TEXTURE_WRAP_S", "CLAMP_TO_EDGE"], ["TEXTURE_WRAP_T", "CLAMP_TO_EDGE"]]) gl.texParameteri(gl.TEXTURE_2D, gl[key], gl[value]);
  return made;
}

function layer(gl) { return { texture: texture(gl), buffer: gl.createFramebuffer(), width: 0, height: 0 }; }

function resize(gl, one, [width, height]) {
  [one.width, one.height] = [width, height];
  gl.bindTexture(gl.TEXTURE_2D, one.texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
  gl.bindFramebuffer(gl.FRAMEBUFFER, one.buffer);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, one.texture, 0);
}
