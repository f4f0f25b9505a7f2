// SPDX-License-Identifier: Apache-2.0
// The page of the ground station: what belongs together from the other modules.
//
// A picture is drawn with the statuses of its very image, so a box always lies where it was found.
// From the beginning of a mark to its end the picture is held, and the request carries the stamp of
// the picture that was held.

import { Alarm } from "./alarm.js";
import { Marks, overlap } from "./marks.js";
import { Panel } from "./panel.js";
import { Pointer } from "./pointer.js";
import { Scene } from "./scene.js";
import { Screen } from "./tone.js";
import { Video, canH264 } from "./video.js";
import { View } from "./view.js";
import { Wire } from "./wire.js";
import { capital, marked, refusal, seconds, target } from "./words.js";

const HOLD_TO_STOP_MS = 700;
const FITTED_SHOWN_MS = 700;
const WIDTHS = [320, 480, 640, 800, 960, 1280, 1600, 1920, 2560];

const $ = (id) => document.getElementById(id);
const stage = $("stage");

// --- what is remembered -----------------------------------------------------------------------

const DEFAULTS = { tone: "auto", night: false, magnify: true, sound: false, vibrate: false, name: "" };
const settings = { ...DEFAULTS };
try { Object.assign(settings, JSON.parse(localStorage.getItem("mlkd-station") ?? "{}")); } catch { /* as they are */ }
const remember = () => { try { localStorage.setItem("mlkd-station", JSON.stringify(settings)); } catch { /* for this visit only */ } };

// --- the parts --------------------------------------------------------------------------------

const alarm = new Alarm();
const panel = new Panel((id) => { scene.selected = scene.selected === id ? "" : id; redo = false; refresh(); });
const scene = new Scene((text, kind, data) => panel.log(text, kind, data), (key, from) => alarm.raise(key, from));
const view = new View();
const screen = new Screen($("video"));
const marks = new Marks($("marks"), view);

let dirty = true; // the marks are to be drawn anew
let told = false; // what is written is to be of the picture that is drawn next
let moved = true; // and the picture
let held = null; // {since, fit}: the picture on the screen is held
let waiting = null; // the picture to be shown next
let newest = null; // what comes after it while it is held
let fitted = null; // {point, box, until}: what was tapped, and what the tracker made of it
let redo = false; // the next mark is of the subject again
let wanted = 0;
let oldness = null; // of the picture on the screen, seconds: one number, wherever it is written
let times = [];

const video = new Video(arrived, () => wire.send({ type: "want", width: wanted, key: true }));
const wire = new Wire({
  opened: async () => {
    video.reset();
    wire.send({ type: "hello", name: settings.name, h264: await canH264() });
    wanted = 0;
    want();
  },
  closed: () => { scene.closed(); refresh(); },
  picture: (buffer) => video.take(buffer),
  text: (message) => {
    if (message.type === "status") scene.hearStatus(message);
    else if (message.type === "link") hearLink(message);
    else if (message.type === "people") scene.people = message;
    else if (message.type === "recording") scene.recording = message;
    else if (message.type === "activity") activity(message);
    if (message.type !== "status") refresh();
    dirty = true;
  },
});

function hearLink(message) {
  if (message.conflict && message.conflict !== scene.link?.conflict) panel.say(message.conflict, "bad", { conflict: "true" });
  scene.hearLink(message);
}

// --- pictures ---------------------------------------------------------------------------------

// Decoded. It is shown, and only then acknowledged, when the screen is ready for it: a slow screen is
// sent less, as a slow link is.
function arrived(picture) {
  if (!picture.source || held) { if (picture.source) keep(picture); acknowledge(picture.number); return; }
  if (waiting) { waiting.close(); acknowledge(waiting.number); }
  waiting = picture;
}

function acknowledge(number) {
  wire.send({ type: "ack", number, stamp: scene.shown?.stamp ?? "0" });
}

function keep(picture) {
  newest?.close();
  newest = picture;
}

function show(picture) {
  const aspect = picture.image_size[0] / picture.image_size[1];
  if (aspect !== view.aspect) { view.layout(stage.clientWidth, stage.clientHeight, aspect); want(); }
  screen.upload(picture.source, picture.size);
  if (screen.able) picture.close();
  else { last?.close(); last = picture; }
  scene.show(picture);
  told = true;
  times = [...times, performance.now()].slice(-60);
  stage.dataset.stamp = picture.stamp;
  dirty = moved = true;
}
let last = null;

// The width that pictures are shown at, rounded up so that small changes are none.
function want() {
  const density = Math.min(window.devicePixelRatio || 1, 2);
  const width = document.hidden ? 0 : Math.min(view.rect[2] * density, 2560);
  const next = width && (WIDTHS.find((one) => one >= width * 0.9) ?? WIDTHS.at(-1));
  if (next !== wanted && wire.send({ type: "want", width: next })) wanted = next;
}

// --- marking ----------------------------------------------------------------------------------

const pointer = new Pointer($("marks"), view, {
  may: () => (wire.waiting("init") ? "The mark before is still on its way." : fitted ? "wait" : scene.cannotMark()),
  press: () => {
    if (!scene.shown || held) return false;
    held = { since: performance.now() };
    if (waiting) { keep(waiting); acknowledge(waiting.number); waiting = null; }
    stage.dataset.held = scene.shown.stamp;
    return true;
  },
  release,
  tap: (at) => {
    fitted = { point: at };
    mark(at[0], at[1], 0, 0, true).then((reply) => {
      if (!reply.ok) { fitted = null; release(); return; }
      fitted = { box: marks.box(reply.box, reply.image_size), fitted: true };
      dirty = true;
      setTimeout(() => { fitted = null; release(); }, FITTED_SHOWN_MS);
    });
  },
  drag: (box) => { mark(...box, false); release(); },
  refuse: (text) => { if (text !== "wait") refuse(text); },
}, (far) => { dirty = true; if (far) { moved = true; want(); } });

function release() {
  if (!held) return;
  held = null;
  delete stage.dataset.held;
  if (newest) { const picture = newest; newest = null; show(picture); }
  dirty = true;
}

function refuse(text) {
  const taken = scene.people?.control && !scene.people.yours && text.startsWith(scene.people.control);
  panel.say(text, "bad", { refused: "true" }, taken ? ["Take control", () => control(true)] : null);
}

async function mark(x, y, w, h, fit) {
  const picture = scene.shown;
  const [across, down] = [picture.size[0] / view.rect[2], picture.size[1] / view.rect[3]];
  const box = [(x - view.rect[0]) * across, (y - view.rect[1]) * down, w * across, h * down];
  const again = redo ? scene.subject : "";
  redo = false;
  const asked = wire.ask({ type: "init", stamp: picture.stamp, box, image_size: picture.size, target_id: again, fit });
  refresh();
  const reply = await asked;
  const data = { request: "init", code: reply.code, target: reply.target_id ?? "", stamp: reply.stamp ?? "", detail: reply.message };
  if (reply.ok) {
    scene.mine.add(reply.target_id);
    scene.selected = scene.targets.size > 1 ? reply.target_id : "";
    const bad = ["LOST", "GIVEN_UP"].includes(reply.state);
    panel.say(marked(reply), bad ? "bad" : "good", data);
  } else answered(reply, data);
  refresh();
  return reply;
}

function answered(reply, data) {
  if (reply.code === "NOT_IN_CONTROL") panel.say(refusal(reply), "bad", data, ["Take control", () => control(true)]);
  else panel.say(refusal(reply), "bad", data);
}

// --- orders -----------------------------------------------------------------------------------

async function stop() {
  const why = scene.cannotStop();
  if (why) { refuse(why); return; }
  const reply = await wire.ask({ type: "stop", target_id: scene.subject });
  const data = { request: "stop", code: reply.code, detail: reply.message };
  if (reply.ok) {
    scene.ended(reply.stopped);
    const names = reply.stopped.map(target).join(", ");
    panel.say(names ? capital(`${names} no longer followed.`) : "Nothing was followed.", "good", data);
  } else answered(reply, data);
  refresh();
  dirty = true;
}

async function record() {
  const why = scene.cannotAct();
  if (why) { refuse(why); return; }
  const on = !scene.recording?.on;
  panel.say(on ? "Starting to record..." : "Ending the recording...");
  const reply = await wire.ask({ type: "record", on });
  const data = { request: "record", code: reply.code };
  if (reply.ok) panel.say(on ? capital(`${reply.message}.`) : `Recorded: ${reply.message}.`, "good", data); else answered(reply, data);
}

async function snapshot() {
  if (!scene.shown) { refuse("There is no picture yet."); return; }
  const reply = await wire.ask({ type: "snapshot", stamp: scene.shown.stamp });
  const data = { request: "snapshot", code: reply.code };
  if (reply.ok) panel.say(`Snapshot kept: ${reply.message}`, "good", { ...data, file: reply.file }); else answered(reply, data);
}

async function control(take = !scene.people?.yours) {
  await wire.ask({ type: "control", take });
  panel.quiet();
}

// What others did is shown; what was done here has been said already.
function activity({ who, yours, what, target_id: id, level = "" }) {
  if (id) { scene.mine.add(id); if (what.startsWith("stopped")) scene.ended([id]); }
  if (yours) return;
  panel.say(`${who ? `${who} ` : ""}${who ? what : capital(what)}.`.replace(/\.\.$/, "."), level, { who });
}

function toggleRedo() {
  const why = scene.cannotMark() || (scene.subject ? "" : "Choose the target first.");
  if (why) { refuse(why); return; }
  redo = !redo;
  refresh();
}

function next() {
  const names = [...scene.targets.keys()];
  if (names.length > 1) scene.selected = names[(names.indexOf(scene.subject) + 1) % names.length];
  refresh();
  dirty = true;
}

function full() {
  const on = !("full" in document.documentElement.dataset);
  if (on) document.documentElement.dataset.full = ""; else delete document.documentElement.dataset.full;
  // A phone's browser may have none, but its bars are small: the layout is the larger part.
  if (on) document.documentElement.requestFullscreen?.({ navigationUI: "hide" }).catch(() => {});
  else if (document.fullscreenElement) document.exitFullscreen();
  $("whole").setAttribute("aria-pressed", String(on));
  layout();
}
document.addEventListener("fullscreenchange", () => { if (!document.fullscreenElement && "full" in document.documentElement.dataset) full(); });

// --- holding to stop --------------------------------------------------------------------------

let holding = 0;
function hold() {
  if (holding) return;
  const why = scene.cannotStop();
  if (why) { refuse(why); return; }
  $("stop").classList.add("holding");
  holding = setTimeout(() => { letGo(true); stop(); }, HOLD_TO_STOP_MS);
}
function letGo(done = false) {
  if (!holding) return;
  clearTimeout(holding);
  holding = 0;
  $("stop").classList.remove("holding");
  if (!done) panel.say("Hold the button, or S, to stop following.");
}
$("stop").addEventListener("pointerdown", (event) => { if (event.button === 0) { $("stop").setPointerCapture(event.pointerId); hold(); } });
for (const name of ["pointerup", "pointercancel", "blur"]) $("stop").addEventListener(name, () => letGo());
$("stop").addEventListener("contextmenu", (event) => event.preventDefault());

// --- keys and buttons -------------------------------------------------------------------------

const KEYS = {
  m: () => pointer.startKeys(), n: toggleRedo, t: next, p: snapshot, r: record, f: full, c: () => control(),
  b: () => { setTone({ off: "auto", auto: "strong", strong: "off" }[settings.tone]); panel.say(`Brighten: ${{ off: "off", auto: "automatic", strong: "strong" }[settings.tone]}.`); },
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: () => { view.all(); dirty = moved = true; want(); },
  "?": () => open($("keys")),
};
function zoom(factor) { view.zoomBy(factor, [view.stage[0] / 2, view.stage[1] / 2]); dirty = moved = true; want(); }

document.addEventListener("keydown", (event) => {
  alarm.wake();
  if (document.querySelector("dialog[open]") || event.target.matches("input")) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (pointer.key(event)) return;
  const onStop = document.activeElement === $("stop") && (event.key === " " || event.key === "Enter");
  if (event.key.toLowerCase() === "s" || onStop) { event.preventDefault(); if (!event.repeat) hold(); return; }
  if (event.repeat) return;
  if (event.key === "Escape") { pointer.end(); redo = false; scene.selected = ""; refresh(); return; }
  const act = KEYS[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
});
document.addEventListener("keyup", (event) => { if (["s", " ", "enter"].includes(event.key.toLowerCase())) letGo(); });
document.addEventListener("pointerdown", () => alarm.wake());

for (const [id, act] of [["redo", toggleRedo], ["snapshot", snapshot], ["record", record], ["whole", full], ["take", () => control()], ["control", () => { control(); $("settings").close(); }], ["more", () => open($("settings"))], ["show-keys", () => { $("settings").close(); open($("keys")); }]]) $(id).addEventListener("click", act);

// On a phone on its side, and on a full screen, the details have no room beside the video: they are in
// the sheet.
const aside = window.matchMedia("(max-height: 500px) and (orientation: landscape)");
function open(dialog) {
  const hidden = aside.matches || "full" in document.documentElement.dataset;
  if (dialog === $("settings")) (hidden ? $("phone-log") : $("app")).append($("panel"));
  dialog.showModal();
}
$("settings").addEventListener("close", () => $("app").append($("panel")));
for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// --- settings ---------------------------------------------------------------------------------

function setTone(mode) {
  settings.tone = mode;
  remember();
  screen.setMode(mode);
  for (const input of document.querySelectorAll("#tone input")) input.checked = input.value === mode;
  document.documentElement.dataset.tone = mode;
  dirty = moved = true;
}
for (const input of document.querySelectorAll("#tone input")) input.addEventListener("change", () => setTone(input.value));

function applySettings() {
  if (settings.night) document.documentElement.dataset.night = ""; else delete document.documentElement.dataset.night;
  alarm.sound = settings.sound;
  alarm.vibrate = settings.vibrate;
  dirty = moved = true;
}
for (const id of ["night", "magnify", "sound", "vibrate"]) {
  $(id).checked = settings[id];
  $(id).addEventListener("change", () => { settings[id] = $(id).checked; remember(); applySettings(); alarm.wake(); });
}
$("name").value = settings.name;
$("name").addEventListener("change", async () => {
  settings.name = $("name").value.trim();
  remember();
  wire.send({ type: "hello", name: settings.name, h264: await canH264() });
});
if (!screen.able) $("tone-note").textContent = "This browser cannot: it has no WebGL 2.";
if (!("vibrate" in navigator)) $("vibrate").closest("label").hidden = true;

// --- drawing ----------------------------------------------------------------------------------

function layout() {
  const aspect = scene.shown ? scene.shown.image_size[0] / scene.shown.image_size[1] : 16 / 9;
  view.layout(stage.clientWidth, stage.clientHeight, aspect);
  const density = Math.min(window.devicePixelRatio || 1, 2);
  $("video").width = Math.round(stage.clientWidth * density);
  $("video").height = Math.round(stage.clientHeight * density);
  dirty = moved = true;
  want();
}

function draw() {
  requestAnimationFrame(draw);
  if (waiting && !held) {
    const picture = waiting;
    waiting = null;
    show(picture);
    acknowledge(picture.number);
  }
  if (screen.able && screen.poll()) moved = true;
  if (told) { told = false; refresh(); }
  if (!dirty && !moved) return;
  dirty = false;
  marks.begin();
  const hidden = !$("notice").hidden;
  let inset = null;
  if (scene.shown) {
    const mark = fitted ?? pointer.mark;
    if (!hidden) {
      marks.targets(scene);
      marks.pictureAge(oldness);
    }
    if (mark) marks.marking(mark);
    else if (pointer.hover && !hidden && !scene.cannotMark()) aim(pointer.hover);
    inset = marks.magnifier(scene, mark, settings.magnify && !hidden);
  }
  place();
  if (!moved && !inset && !drawnInset) return;
  moved = false;
  drawnInset = inset;
  const { width, height } = $("video");
  const density = width / Math.max(view.stage[0], 1);
  const scaled = (box) => box.map((value) => value * density);
  const views = [{ to: scaled(view.rect), from: [0, 0, 1, 1] }];
  if (inset) views.push({ to: scaled(inset.to), from: inset.from });
  screen.draw(views, width, height);
}
let drawnInset = null;

// Where a tap would go.
function aim([x, y]) {
  const pen = marks.pen;
  pen.strokeStyle = "rgb(255 255 255 / 70%)";
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.arc(x, y, 14, 0, 2 * Math.PI);
  pen.stroke();
}

// Messages lie in the corner of the video where nothing is.
function place() {
  const words = $("words").getBoundingClientRect();
  const area = stage.getBoundingClientRect();
  if (!words.height || words.top >= area.bottom - 1) return;
  const [w, h, gap] = [words.width, words.height, 14];
  const corners = {
    "bottom-left": [gap, area.height - h - gap], "bottom-right": [area.width - w - gap, area.height - h - gap],
    "top-left": [gap, gap], "top-right": [area.width - w - gap, gap],
  };
  const free = ([x, y]) => !marks.taken.some((one) => overlap([x, y, w, h], one));
  const now = $("words").dataset.corner;
  if (now && free(corners[now])) return;
  panel.corner(Object.keys(corners).find((name) => free(corners[name])) ?? "bottom-left");
}

// --- what is written --------------------------------------------------------------------------

function standing() {
  const asked = wire.waiting("init") ?? wire.waiting("stop");
  if (asked) {
    const since = (performance.now() - asked.at) / 1000;
    if (since > 0.25) return `${asked.message.type === "init" ? "Sending the mark" : "Sending the stop"}... ${seconds(since)}`;
  }
  if (pointer.keyed) return "Arrows move, + and − size. Enter: as drawn. Space: fitted. Esc: not.";
  if (held && !fitted) return `Picture held ${seconds((performance.now() - held.since) / 1000)}`;
  if (wire.stalled) return `The link stands still for ${seconds(wire.stalled)}.`;
  // Where there is no room for the panel, which says all of it.
  if (scene.link?.conflict && !$("panel").offsetHeight && $("message").hidden) return `${scene.link.conflict.split(". ")[0]}.`;
  if (redo) return `Mark ${target(scene.subject)} again, or press Re-mark once more.`;
  if (pointer.kind === "touch" && !scene.targets.size && !scene.cannotMark()) return "Tap the target. Two fingers enlarge.";
  return "";
}

function refresh() {
  const now = performance.now();
  times = times.filter((time) => time > now - 2000);
  const rate = times.length > 1 ? (times.length - 1) / ((times.at(-1) - times[0]) / 1000) : 0;
  if (redo && !scene.subject) redo = false;
  panel.standing(standing());
  oldness = scene.pictureAge(wire.offset);
  panel.write(scene, wire, rate, redo, oldness);
}

new ResizeObserver(layout).observe(stage);
document.addEventListener("visibilitychange", () => { want(); });
setInterval(() => { refresh(); dirty = true; }, 200);
setTone(settings.tone);
applySettings();
layout();
refresh();
draw();

// For tests and the curious.
window.station = { panel, scene, view, wire, pointer, alarm, marks, screen, settings, refresh, stop, fitted: () => fitted, inset: () => drawnInset };
