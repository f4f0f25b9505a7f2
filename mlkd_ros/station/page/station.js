// SPDX-License-Identifier: Apache-2.0
// The page of the ground station. What it says to the server and hears: ../protocol.py.
//
// A picture is drawn together with the statuses that carry its stamp, so a box always lies on the
// very image it was found in. From the beginning of a drag to its end the picture is held, and the
// request carries the stamp of the picture that was held.

const COLOURS = { TRACKING: "#5ae678", UNCERTAIN: "#ffbe3c", LOST: "#ff5f5f", GIVEN_UP: "#8fa3b5" };
const NOTES = {
  IDLE: "Drag a box around the target.",
  TRACKING: "",
  UNCERTAIN: "Weak evidence. A box is the best guess; none means not seen now.",
  LOST: "Not seen. Searching.",
  GIVEN_UP: "Not seen for too long. Designate it again.",
};
const CLICK_PIXELS = 5; // on the screen; a shorter way is a click
const STAMPS_KEPT = 90;
const SILENT_S = 1.5;
const CLOCKS_DIFFER_S = 60; // beyond this, an age is not an age but two clocks
const MESSAGES_KEPT = 30;

const $ = (id) => document.getElementById(id);
const [stage, view, video, marks] = ["stage", "view", "video", "marks"].map($);
const pen = marks.getContext("2d");
const still = video.getContext("2d", { alpha: false });

let socket = null;
let retry = 0;
let shown = null; // the picture on the screen: {stamp, size, image_size, age, sent, bitmap, number}
let newest = null; // what comes after it while it is held
let received = 0; // pictures
let images = 0; // that the tracker has spoken of
let statuses = new Map(); // by stamp: Map by target
let targets = new Map(); // the newest status of each target
let newestStatus = null;
let link = null;
let drag = null; // {pointer, from, to, picture, began}
let hover = null;
let chosen = ""; // the target that the next box designates anew
let requests = 0;
let pending = new Map(); // by number of the request: what it was
let clock = null; // {offset, rtt}: the server's steady clock against ours
let latencies = [];
let shownTimes = [];
let dirty = true;
let alertTimer = 0;

// --- connection ------------------------------------------------------------------------------

function connect() {
  socket = new WebSocket(new URL("socket", location.href).href.replace(/^http/, "ws"));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { retry = 0; clock = null; ping(); };
  socket.onmessage = (event) => {
    if (typeof event.data === "string") hear(JSON.parse(event.data));
    else see(event.data);
  };
  socket.onclose = async () => {
    link = null;
    for (const request of pending.keys()) answer({ request, ok: false, message: "The connection was lost before the answer." });
    targets.clear();
    const delay = Math.min(4000, 400 * 2 ** retry++);
    refresh();
    setTimeout(connect, delay);
    // A browser does not tell why a WebSocket was refused; a plain request does.
    const reason = await fetch("./", { cache: "no-store" }).then((r) => r.status, () => 0);
    if (reason === 401) location.reload();
  };
}

function send(message) {
  if (!socket || socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(message));
  return true;
}

function ping() { send({ type: "ping", t: performance.now() }); }

function hear(message) {
  if (message.type === "status") hearStatus(message);
  else if (message.type === "link") { link = message; refresh(); }
  else if (message.type === "reply") answer(message);
  else if (message.type === "pong") {
    const rtt = performance.now() - message.t;
    // The quickest exchange says most about the clocks; an old one is forgotten in the end.
    const offset = message.now - (message.t + rtt / 2) / 1000;
    if (!clock || rtt <= clock.best * 1.2) clock = { offset, best: rtt, rtt };
    else { clock.rtt = rtt; clock.best *= 1.05; }
  }
}

function hearStatus(status) {
  if (!statuses.has(status.stamp)) {
    statuses.set(status.stamp, new Map());
    images++;
    if (statuses.size > STAMPS_KEPT) statuses.delete(statuses.keys().next().value);
    if (status.latency !== null) latencies.push(status.latency);
    if (latencies.length > 30) latencies.shift();
  }
  statuses.get(status.stamp).set(status.target_id, status);
  status.heard = performance.now();
  status.image = images;
  newestStatus = status;
  if (status.state === "IDLE") targets.clear();
  else targets.set(status.target_id, status);
  // Every target is spoken of on every image. (A message may come late, or be lost.)
  for (const [id, other] of targets) if (images - other.image > 2) targets.delete(id);
  if (shown && shown.stamp === status.stamp) dirty = true;
}

async function see(buffer) {
  const number = ++received;
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  try {
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(buffer, 4 + length)], { type: "image/jpeg" }));
    const picture = { ...header, bitmap, number };
    if (drag) keep(picture); else show(picture);
  } finally {
    send({ type: "ack" });
  }
}

function keep(picture) {
  if (newest) newest.bitmap.close();
  newest = picture;
}

function show(picture) {
  if (shown && picture.number < shown.number) { picture.bitmap.close(); return; }
  if (shown) shown.bitmap.close();
  const resized = !shown || shown.size[0] !== picture.size[0] || shown.size[1] !== picture.size[1];
  shown = picture;
  shownTimes.push(performance.now());
  view.dataset.stamp = picture.stamp;
  if (resized) {
    [video.width, video.height] = picture.size;
    layout();
  }
  still.drawImage(picture.bitmap, 0, 0);
  dirty = true;
}

// --- what the operator does ------------------------------------------------------------------

function place(event) {
  const area = marks.getBoundingClientRect();
  const x = Math.min(Math.max(event.clientX - area.left, 0), area.width);
  const y = Math.min(Math.max(event.clientY - area.top, 0), area.height);
  return { x, y };
}

marks.addEventListener("pointerdown", (event) => {
  if (drag) { if (event.pointerId !== drag.pointer) endDrag(); return; }
  if (event.button !== 0 || !shown || !socket || socket.readyState !== WebSocket.OPEN) return;
  event.preventDefault();
  marks.setPointerCapture(event.pointerId);
  const at = place(event);
  drag = { pointer: event.pointerId, from: at, to: at, picture: shown, began: performance.now() };
  view.dataset.held = shown.stamp;
  dirty = true;
});

marks.addEventListener("pointermove", (event) => {
  hover = event.pointerType === "mouse" ? place(event) : null;
  if (drag && event.pointerId === drag.pointer) drag.to = place(event);
  dirty = true;
});

marks.addEventListener("pointerup", (event) => {
  if (!drag || event.pointerId !== drag.pointer) return;
  drag.to = place(event);
  const { picture, box } = { picture: drag.picture, box: draggedBox() };
  endDrag();
  designate(picture, box);
});

marks.addEventListener("pointercancel", endDrag);
marks.addEventListener("pointerleave", () => { hover = null; dirty = true; });
marks.addEventListener("contextmenu", (event) => { event.preventDefault(); endDrag(); });
marks.addEventListener("wheel", (event) => {
  event.preventDefault();
  const input = $("click-size");
  input.value = Number(input.value) - Math.sign(event.deltaY) * Number(input.step);
  setClickSize();
}, { passive: false });

function endDrag() {
  if (!drag) return;
  drag = null;
  delete view.dataset.held;
  if (newest) { const picture = newest; newest = null; show(picture); }
  refresh();
  dirty = true;
}

// Pixels of the picture for one of the screen.
function scale(picture) { return picture.size[0] / view.clientWidth; }

function clickBox(at, picture) {
  const side = Number($("click-size").value) * picture.size[0] / picture.image_size[0] / scale(picture);
  return { x: at.x - side / 2, y: at.y - side / 2, w: side, h: side };
}

// On the screen.
function draggedBox() {
  const { from, to } = drag;
  const [w, h] = [Math.abs(to.x - from.x), Math.abs(to.y - from.y)];
  if (Math.max(w, h) < CLICK_PIXELS) return clickBox(from, drag.picture);
  return { x: Math.min(from.x, to.x), y: Math.min(from.y, to.y), w, h };
}

function designate(picture, { x, y, w, h }) {
  const factor = scale(picture);
  const box = [x, y, w, h].map((value) => value * factor);
  if (Math.min(box[2], box[3]) < 2) { say("That box is too thin: drag from corner to corner.", "bad"); return; }
  ask({ type: "init", stamp: picture.stamp, box, image_size: picture.size, target_id: chosen });
  choose("");
}

function stop(target = "") { ask({ type: "stop", target_id: target }); }

function ask(message) {
  const request = ++requests;
  if (!send({ ...message, request })) { say("Not connected to the ground station.", "bad"); return; }
  pending.set(request, message);
}

function answer(reply) {
  const asked = pending.get(reply.request);
  pending.delete(reply.request);
  const code = reply.ok || !reply.code ? "" : `${reply.code}: `;
  const missed = ["LOST", "GIVEN_UP"].includes(reply.state); // designated, and lost on the way
  const entry = say(code + reply.message, reply.ok && !missed ? "good" : "bad");
  if (asked) entry.dataset.request = asked.type;
  entry.dataset.code = reply.code ?? "";
  if (reply.stamp) entry.dataset.stamp = reply.stamp;
  // What a stop has stopped is gone at once, not when the next image comes.
  if (reply.ok && asked?.type === "stop") {
    if (asked.target_id) targets.delete(asked.target_id); else targets.clear();
  }
  refresh();
}

function choose(target) { chosen = chosen === target ? "" : target; refresh(); }

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { endDrag(); chosen = ""; refresh(); }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key === "s" || event.key === "S") stop();
});
$("stop").addEventListener("click", () => stop());

// --- what is drawn ---------------------------------------------------------------------------

function layout() {
  const [width, height] = shown ? shown.size : [16, 9];
  const factor = Math.min(stage.clientWidth / width, stage.clientHeight / height);
  const [w, h] = [width * factor, height * factor];
  Object.assign(view.style, {
    width: `${w}px`, height: `${h}px`,
    left: `${(stage.clientWidth - w) / 2}px`, top: `${(stage.clientHeight - h) / 2}px`,
  });
  const density = window.devicePixelRatio || 1;
  marks.width = Math.round(w * density);
  marks.height = Math.round(h * density);
  dirty = true;
}

function draw() {
  requestAnimationFrame(draw);
  if (drag) $("held").lastElementChild.textContent = `${((performance.now() - drag.began) / 1000).toFixed(1)} s`;
  if (!dirty) return;
  dirty = false;
  const density = window.devicePixelRatio || 1;
  pen.setTransform(density, 0, 0, density, 0, 0);
  pen.clearRect(0, 0, view.clientWidth, view.clientHeight);
  $("held").hidden = !drag;
  if (!shown) return;
  for (const status of statuses.get(shown.stamp)?.values() ?? []) if (status.box) drawTarget(status);
  if (drag) drawRectangle(draggedBox(), "#ffffff", []);
  else if (hover && $("notice").hidden) drawRectangle(clickBox(hover, shown), "rgb(255 255 255 / 55%)", [5, 5]);
}

function drawTarget({ box, image_size, state, confidence, target_id }) {
  const factor = view.clientWidth / image_size[0];
  const gap = 3; // a small target stays visible
  const [x, y] = [box[0] * factor - gap, box[1] * factor - gap];
  const [w, h] = [box[2] * factor + 2 * gap, box[3] * factor + 2 * gap];
  const arm = Math.max(6, Math.min(w, h) * 0.3);
  const path = new Path2D();
  for (const [cx, cy, right, down] of [[x, y, 1, 1], [x + w, y, -1, 1], [x, y + h, 1, -1], [x + w, y + h, -1, -1]]) {
    path.moveTo(cx + right * Math.min(arm, w / 2), cy);
    path.lineTo(cx, cy);
    path.lineTo(cx, cy + down * Math.min(arm, h / 2));
  }
  pen.setLineDash([]);
  pen.lineCap = pen.lineJoin = "round";
  for (const [stroke, width] of [["rgb(0 0 0 / 75%)", 5], [COLOURS[state] ?? "#ffffff", 2.5]]) {
    pen.strokeStyle = stroke;
    pen.lineWidth = width;
    pen.stroke(path);
  }
  drawLabel(`${targets.size > 1 ? `Target ${target_id}  ` : ""}${confidence.toFixed(2)}`, x, y, h, COLOURS[state]);
}

function drawLabel(text, x, y, h, colour) {
  pen.font = "600 15px system-ui, 'DejaVu Sans', sans-serif";
  pen.textBaseline = "alphabetic";
  const width = pen.measureText(text).width;
  const left = Math.min(Math.max(x, 4), view.clientWidth - width - 4);
  const base = y > 26 ? y - 8 : Math.min(y + h + 20, view.clientHeight - 6);
  pen.lineJoin = "round";
  pen.lineWidth = 4;
  pen.strokeStyle = "rgb(0 0 0 / 80%)";
  pen.strokeText(text, left, base);
  pen.fillStyle = colour ?? "#ffffff";
  pen.fillText(text, left, base);
}

function drawRectangle({ x, y, w, h }, colour, dash) {
  pen.setLineDash(dash);
  for (const [stroke, width] of [["rgb(0 0 0 / 70%)", 4], [colour, 1.5]]) {
    pen.strokeStyle = stroke;
    pen.lineWidth = width;
    pen.strokeRect(x, y, w, h);
  }
  pen.setLineDash([]);
}

// --- what is written -------------------------------------------------------------------------

function say(text, level) {
  const entry = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toTimeString().slice(0, 8);
  entry.append(time, text);
  entry.dataset.level = level;
  $("messages").prepend(entry);
  while ($("messages").children.length > MESSAGES_KEPT) $("messages").lastElementChild.remove();
  $("alert").textContent = text;
  $("alert").dataset.level = level;
  $("alert").hidden = false;
  clearTimeout(alertTimer);
  alertTimer = setTimeout(() => { $("alert").hidden = true; }, level === "bad" ? 7000 : 2500);
  return entry;
}

const milliseconds = (seconds) => (seconds < 1 ? [`${Math.round(seconds * 1000)}`, "ms"] : [seconds.toFixed(1), "s"]);

function write(id, value, unit = "", level = "") {
  const element = $(id);
  element.replaceChildren(value);
  if (unit) {
    const small = document.createElement("small");
    small.textContent = ` ${unit}`;
    element.append(small);
  }
  element.dataset.level = level;
}

function health(id, level, text) {
  $(id).dataset.level = level;
  $(id).lastElementChild.textContent = text;
}

// Seconds since anything was heard of the targets: an old state must not look like a present one.
const silentFor = () => (newestStatus ? (performance.now() - newestStatus.heard) / 1000 : 0);

// The state to put in large letters: of several targets, the one in most need of attention.
function summary() {
  if (!link) return { state: "OFFLINE", note: "No connection to the ground station. Trying again." };
  if (!link.tracker) return { state: "NO TRACKER", note: "The tracker node is not found." };
  const order = ["LOST", "UNCERTAIN", "GIVEN_UP", "TRACKING"];
  const worst = [...targets.values()].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state))[0];
  if (!worst) return { state: "IDLE", note: NOTES.IDLE };
  const silence = silentFor();
  if (silence > SILENT_S) return { state: "NO NEWS", note: `Nothing heard of the target for ${silence.toFixed(0)}\u00a0s.` };
  const again = worst.reacquisitions ? `Found again ${worst.reacquisitions} ${worst.reacquisitions > 1 ? "times" : "time"}.` : "";
  return { state: worst.state, note: NOTES[worst.state] || again, status: worst };
}

function notice() {
  if (!link) return ["Connection to the ground station lost", "Trying again."];
  if (link.problem) return ["The video cannot be shown", link.problem];
  if (link.silence === null) {
    const who = link.publishers ? "" : " Nobody publishes it: is the camera driver running, and in this ROS domain?";
    return [`Waiting for video on ${link.topic}`, `No image so far.${who}`];
  }
  if (link.silence > SILENT_S) {
    const who = link.publishers ? "The camera driver is there, but sends nothing." : "Nobody publishes it any more.";
    return [`No image for ${link.silence.toFixed(1)} s on ${link.topic}`, who];
  }
  return shown ? null : [`Waiting for video on ${link.topic}`, ""];
}

function refresh() {
  writeHealth();
  const { state, note, status } = summary();
  if ($("state").dataset.state !== state) $("state").dataset.state = state;
  $("state-name").textContent = state === "IDLE" ? "NO TARGET" : state.replace("_", " ");
  const name = status ? `Target ${status.target_id}` : "";
  $("state-target").textContent = targets.size > 1 ? `${name || "Targets"} · ${name ? "1 of " : ""}${targets.size}` : name;
  $("state-note").textContent = state === "NO TRACKER" && link.hint ? `${note} ${link.hint}` : note;
  const confidence = status?.box ? status.confidence : 0;
  $("bar").firstElementChild.style.width = `${100 * confidence}%`;
  $("bar").setAttribute("aria-valuenow", confidence.toFixed(2));
  $("confidence").textContent = status?.box ? confidence.toFixed(2) : "–";
  const title = state === "IDLE" ? "" : `${state.replace("_", " ")} · `;
  if (document.title !== `${title}mlkd ground station`) document.title = `${title}mlkd ground station`;
  $("stop").disabled = !link || !link.tracker;
  $("namespace").textContent = link?.namespace ?? "";
  const text = notice();
  $("notice").hidden = !text;
  if (text) [$("notice").firstElementChild.textContent, $("notice").lastElementChild.textContent] = text;
  const designate = chosen ? `Drag a box: target ${chosen} is designated anew. Esc: not.` : "Drag a box around the target, or click on it.";
  $("hint").textContent = designate;
  $("hint").hidden = Boolean(text || drag || !link?.tracker || (targets.size && !chosen));
  writeFigures();
  writeTargets();
}

function writeHealth() {
  const rate = (value) => (value > 0 ? `${value.toFixed(value < 9.95 ? 1 : 0)} Hz` : "–");
  if (!link) {
    for (const id of ["health-camera", "health-tracker"]) health(id, "off", "–");
    health("health-link", "bad", "lost");
    return;
  }
  const silent = link.silence === null || link.silence > SILENT_S;
  health("health-camera", link.problem || silent ? "bad" : "good", silent ? "silent" : rate(link.camera_rate));
  health("health-tracker", !link.tracker ? "bad" : link.tracker_rate > 0 ? "good" : "warn", link.tracker ? (link.tracker_rate > 0 ? rate(link.tracker_rate) : "waiting") : "not found");
  health("health-link", "good", clock ? `${Math.max(1, Math.round(clock.rtt))} ms` : "–");
}

function writeFigures() {
  const now = performance.now();
  shownTimes = shownTimes.filter((time) => time > now - 2000);
  const live = link && link.tracker_rate > 0 && latencies.length > 0;
  const latency = live ? [...latencies].sort((a, b) => a - b)[latencies.length >> 1] : null;
  if (latency === null) write("latency", "–");
  else if (Math.abs(latency) > CLOCKS_DIFFER_S) write("latency", "clocks differ", "", "bad");
  else write("latency", ...milliseconds(latency), latency > 0.2 ? "bad" : "");
  const age = shown && clock && link ? shown.age + now / 1000 + clock.offset - shown.sent : null;
  if (age === null) write("age", "–");
  else if (Math.abs(shown.age) > CLOCKS_DIFFER_S) write("age", "clocks differ", "", "bad");
  else write("age", ...milliseconds(Math.max(age, 0)), age > 1 ? "bad" : "");
  const rate = shownTimes.length > 1 ? (shownTimes.length - 1) / ((shownTimes.at(-1) - shownTimes[0]) / 1000) : 0;
  write("video-rate", rate > 0 ? rate.toFixed(1) : "–", rate > 0 ? "Hz" : "");
  if (live) write("dropped", (100 * link.drop_share).toFixed(0), "%", link.drop_share > 0.2 ? "bad" : "");
  else write("dropped", "–");
}

function writeTargets() {
  $("targets-none").hidden = targets.size > 0;
  const list = $("targets");
  for (const row of [...list.children]) if (!targets.has(row.dataset.target)) row.remove();
  if (chosen && !targets.has(chosen)) chosen = "";
  for (const [id, status] of targets) {
    const row = [...list.children].find((item) => item.dataset.target === id) ?? newRow(id);
    const old = silentFor() > SILENT_S;
    row.dataset.state = old ? "OLD" : status.state;
    row.querySelector("small").textContent = old ? "no news" : status.state.replace("_", " ") + (status.box ? ` ${status.confidence.toFixed(2)}` : "");
    row.querySelector("button").setAttribute("aria-pressed", String(chosen === id));
  }
}

function newRow(id) {
  const row = document.createElement("li");
  row.dataset.target = id;
  const text = document.createElement("div");
  const name = document.createElement("b");
  name.textContent = name.title = `Target ${id}`;
  text.append(name, document.createElement("small"));
  const again = document.createElement("button");
  again.textContent = "Redo";
  again.title = "The next box designates this target anew";
  again.addEventListener("click", () => choose(id));
  const end = document.createElement("button");
  end.textContent = "Stop";
  end.setAttribute("aria-label", `Stop ${id}`);
  end.addEventListener("click", () => stop(id));
  row.append(text, again, end);
  $("targets").append(row);
  return row;
}

function setClickSize() { $("click-size-value").textContent = `${$("click-size").value} px`; dirty = true; }
function setBrightness() {
  const value = Number($("brighten").value);
  $("brighten-value").textContent = value === 1 ? "off" : `× ${value}`;
  video.style.filter = value === 1 ? "" : `brightness(${value})`;
}

$("click-size").addEventListener("input", setClickSize);
$("brighten").addEventListener("input", setBrightness);
new ResizeObserver(layout).observe(stage);
setInterval(ping, 1000);
setInterval(refresh, 250);
setClickSize();
setBrightness();
refresh();
connect();
draw();
