// SPDX-License-Identifier: Apache-2.0
// What is written beside the video.

import { written } from "./scene.js";
import { age, capital, clock, look, seconds, target } from "./words.js";

const KEPT = 60; // entries of the log
const MESSAGE_MS = { bad: 8000, good: 3500, "": 4500 };
const SILENT_S = 1.5;
const OLD_S = 1; // of a picture, worth a warning
const $ = (id) => document.getElementById(id);

function set(element, text) { if (element.textContent !== text) element.textContent = text; }
function level(element, value) { if (element.dataset.level !== value) element.dataset.level = value; }

export class Panel {
  // choose(id): a target of the list was chosen.
  constructor(choose) {
    this.choose = choose;
    this.lasts = MESSAGE_MS;
    this.timer = 0;
    this.action = null;
    $("message-action").addEventListener("click", () => { const act = this.action; this.quiet(); act?.(); });
  }

  // A line in the log.
  log(text, kind = "", data = {}) {
    const entry = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = clock();
    entry.append(time, text);
    Object.assign(entry.dataset, { level: kind, ...data });
    if (data.file) {
      const link = document.createElement("a");
      [link.href, link.textContent, link.target] = [data.file, "open", "_blank"];
      entry.append(" ", link);
    }
    $("messages").prepend(entry);
    while ($("messages").children.length > KEPT) $("messages").lastElementChild.remove();
    return entry;
  }

  // The same, and beside the picture for a few seconds. action: [label, what it does].
  say(text, kind = "", data = {}, action = null) {
    const entry = this.log(text, kind, data);
    set($("message").firstElementChild, text);
    level($("message"), kind);
    $("message").hidden = false;
    this.action = action?.[1] ?? null;
    $("message-action").hidden = !action;
    if (action) set($("message-action"), action[0]);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.quiet(), this.lasts[kind] ?? 4500);
    return entry;
  }

  quiet() { clearTimeout(this.timer); $("message").hidden = true; this.action = null; }

  // What holds for now, beside the picture; empty: nothing.
  standing(text) {
    set($("standing"), text);
    $("standing").hidden = !text;
  }

  corner(name) { if ($("words").dataset.corner !== name) $("words").dataset.corner = name; }

  write(scene, wire, rate, redo, old) {
    this.state(scene);
    this.health(scene, wire);
    this.figures(scene, rate, old);
    this.targets(scene);
    this.people(scene);
    const notice = scene.notice();
    $("notice").hidden = !notice;
    if (notice) { set($("notice").firstElementChild, notice[0]); set($("notice").lastElementChild, notice[1]); }
    $("conflict").hidden = !scene.link?.conflict;
    set($("conflict"), scene.link?.conflict ?? "");
    this.controls(scene, redo);
  }

  state(scene) {
    const { key, word, note, status } = scene.summary();
    if ($("state").dataset.state !== key) $("state").dataset.state = key;
    set($("state-name"), word);
    const confidence = status?.box ? status.confidence : 0;
    set($("confidence"), status ? written(status) : "–");
    $("bar").firstElementChild.style.width = `${100 * confidence}%`;
    $("bar").setAttribute("aria-valuenow", confidence.toFixed(2));
    const behind = status && scene.behind && scene.shown ? " The video is behind this." : "";
    set($("state-note"), note + behind);
    const title = key === "IDLE" ? "mlkd ground station" : `${word} · mlkd`;
    if (document.title !== title) document.title = title;
  }

  health(scene, wire) {
    const hertz = (value) => (value > 0 ? `${value.toFixed(value < 9.95 ? 1 : 0)} Hz` : "–");
    const put = (name, kind, text) => { level($(`health-${name}`), kind); set($(`health-${name}`).lastElementChild, text); };
    const { link } = scene;
    if (!link) {
      put("camera", "off", "–");
      put("tracker", "off", "–");
      put("link", "bad", "lost");
      return;
    }
    const silent = link.silence === null || link.silence > SILENT_S;
    put("camera", link.problem || silent ? "bad" : "good", silent ? "silent" : hertz(link.camera_rate));
    put("tracker", !scene.there ? "bad" : link.tracker === "live" ? "good" : "warn", !scene.there ? (link.tracker === "gone" ? "stopped" : "none") : link.tracker === "live" ? hertz(link.tracker_rate) : "waiting");
    const { stalled, delay } = wire;
    put("link", stalled ? "bad" : delay > OLD_S ? "warn" : "good", stalled ? `still ${seconds(stalled)}` : delay === null ? "–" : age(delay));
  }

  figures(scene, rate, old) {
    const put = (id, value, unit = "", kind = "") => {
      const element = $(id);
      const text = unit ? `${value} ${unit}` : value;
      if (element.textContent !== text) {
        element.replaceChildren(value);
        if (unit) { const small = document.createElement("small"); small.textContent = ` ${unit}`; element.append(small); }
      }
      level(element, kind);
    };
    const { link, shown, latencies } = scene;
    const live = link?.tracker === "live" && latencies.length;
    const latency = live ? [...latencies].sort((a, b) => a - b)[latencies.length >> 1] : null;
    if (latency === null) put("latency", "–");
    else if (Math.abs(latency) > 60) put("latency", "clocks differ", "", "bad");
    else put("latency", ...age(latency).split(" "), latency > 0.2 ? "bad" : "");
    if (old === null) put("age", shown && shown.age === null ? "clocks differ" : "–", "", shown && shown.age === null ? "bad" : "");
    else put("age", ...age(old).split(" "), old > OLD_S ? "bad" : "");
    put("video-rate", rate > 0 ? `${rate.toFixed(rate < 9.95 ? 1 : 0)} Hz` : "–", rate > 0 && shown ? `${shown.size[0]} px${shown.codec === "jpeg" ? "" : " H.264"}` : "");
    if (live) put("dropped", (100 * link.drop_share).toFixed(0), "%", link.drop_share > 0.2 ? "bad" : ""); else put("dropped", "–");
  }

  targets(scene) {
    const list = $("targets");
    for (const row of [...list.children]) if (!scene.targets.has(row.dataset.target)) row.remove();
    const said = new Map(scene.statuses().map((status) => [status.target_id, status]));
    for (const [id, { status: newest }] of scene.targets) {
      const status = said.get(id) ?? newest;
      const row = [...list.children].find((one) => one.dataset.target === id) ?? this.row(id);
      const old = scene.silentFor > SILENT_S;
      const { key, word } = look(status);
      row.dataset.state = old ? "NO NEWS" : key;
      set(row.querySelector("span"), old ? "no news" : `${word}${status.box ? ` ${status.confidence.toFixed(2)}` : ""}`);
      row.firstElementChild.setAttribute("aria-pressed", String(scene.targets.size > 1 && scene.subject === id));
    }
    const none = !scene.link ? "Not connected: unknown." : !scene.there ? scene.vanished || "No tracker." : scene.targets.size ? "" : "None is followed.";
    set($("targets-none"), none);
  }

  row(id) {
    const row = document.createElement("li");
    row.dataset.target = id;
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Orders are about this target";
    const name = document.createElement("b");
    name.textContent = capital(target(id));
    button.append(name, document.createElement("span"));
    button.addEventListener("click", () => this.choose(id));
    row.append(button);
    $("targets").append(row);
    return row;
  }

  people({ people }) {
    if (!people) { set($("crew-text"), "–"); $("take").disabled = $("control").disabled = true; return; }
    const others = people.names.length - 1;
    const here = others > 0 ? ` · ${others} other${others > 1 ? "s" : ""} here` : "";
    set($("crew-text"), people.yours ? `You have the control (${people.you})${here}` : people.control ? `${people.control} has the control${here}` : `Nobody has the control (you: ${people.you})${here}`);
    for (const id of ["take", "control"]) { set($(id), people.yours ? "Leave control" : "Take control"); $(id).disabled = false; }
  }

  controls(scene, redo) {
    const off = (id, why) => { const value = Boolean(why); if ($(id).disabled !== value) $(id).disabled = value; };
    off("stop", scene.cannotStop());
    off("redo", scene.cannotMark() || (scene.subject ? "" : "which?"));
    $("redo").setAttribute("aria-pressed", String(Boolean(redo)));
    off("snapshot", !scene.link || !scene.shown ? "no picture" : scene.recording?.possible === false ? "off" : "");
    const { recording } = scene;
    off("record", scene.cannotAct() || (recording?.possible === false ? "off" : ""));
    $("record").setAttribute("aria-pressed", String(Boolean(recording?.on)));
    set($("record-label"), recording?.on ? seconds(Math.max(Date.now() / 1000 - recording.since, 0)) : "Record");
  }
}
