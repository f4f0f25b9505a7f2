// SPDX-License-Identifier: Apache-2.0
// What is known: of the targets, of the picture on the screen, and of those who tell of them.
//
// A picture brings what was said of its very image. State, number and colour come from there, so
// that what is written is of what is seen; only when the video falls behind are they of the newest
// word, and the age says so.

import { NOTES, capital, change, look, seconds, target } from "./words.js";

const TRAIL_S = 2;
const SILENT_S = 1.5; // without a word of the targets
const BEHIND_S = 1.5; // of the video, against the newest word
const NAMED = 2; // targets, in a sentence
const NEED = ["LOST", "UNCERTAIN", "WEAK", "GIVEN_UP", "TRACKING"]; // the most in need first

const stampSeconds = (later, earlier) => Number(BigInt(later) - BigInt(earlier)) / 1e9;

export class Scene {
  // log(text, level, id): for every change of state. alarm(key): the state that a target changed to.
  constructor(log, alarm) {
    this.log = log;
    this.alarm = alarm;
    this.link = null;
    this.heardLink = 0;
    this.people = null;
    this.recording = null;
    this.targets = new Map(); // by id: {status, heard, seen: {box, stamp}, trail, lostAt}
    this.newest = null; // stamp
    this.heard = 0;
    this.shown = null; // the picture on the screen
    this.selected = "";
    this.vanished = ""; // what became of the targets when the tracker went
    this.wasTracker = "";
    this.mine = new Set(); // targets that an order at a page has made or ended
    this.latencies = [];
  }

  hearStatus(status) {
    const late = this.newest === null ? 0 : stampSeconds(this.newest, status.stamp);
    const overtaken = late > 0 && late < 5; // more is another flight
    this.heard = performance.now();
    if (!overtaken) this.newest = status.stamp;
    if (status.latency !== null) this.latencies = [...this.latencies, status.latency].slice(-15);
    if (status.state === "IDLE" && overtaken) return;
    if (status.state === "IDLE") { for (const id of [...this.targets.keys()]) this.forget(id); return; }
    const before = this.targets.get(status.target_id);
    if (overtaken && (!before || stampSeconds(before.status.stamp, status.stamp) > 0)) return;
    const one = before ?? { trail: [], seen: null };
    if (!before || before.status.state !== status.state) this.changed(status, before?.status.state);
    if (status.state === "LOST" && before?.status.state !== "LOST") one.lostAt = performance.now() - 1000 * (status.seconds_lost ?? 0);
    one.status = status;
    one.heard = this.heard;
    if (status.box) one.seen = { box: status.box, stamp: status.stamp, image_size: status.image_size };
    this.targets.set(status.target_id, one);
    // Every target is spoken of again and again.
    for (const [id, other] of this.targets) if (this.heard - other.heard > 1200 && this.heard - other.heard < 60000 && other !== one) this.forget(id);
  }

  changed(status, from) {
    const bad = status.state === "LOST" || status.state === "GIVEN_UP";
    this.log(`${change(status.target_id, from, status.state)}${status.box ? ` (${status.confidence.toFixed(2)})` : ""}.`, bad ? "bad" : "good", { state: status.state, target: status.target_id });
    if (from || bad) this.alarm(status.state, from);
  }

  forget(id) {
    if (!this.targets.delete(id)) return;
    if (!this.mine.delete(id)) this.log(`${capital(target(id))} is no longer followed.`, "", { state: "ENDED", target: id });
    if (this.selected === id) this.selected = "";
  }

  // An order at a page has ended these: gone at once, and told already.
  ended(ids) { for (const id of ids) { this.mine.add(id); this.forget(id); this.mine.delete(id); } }

  show(picture) {
    this.shown = picture;
    for (const status of picture.statuses) {
      this.hearStatus(status);
      const one = this.targets.get(status.target_id);
      if (!one) continue;
      const [width, height] = status.image_size;
      const place = status.box ? [(status.box[0] + status.box[2] / 2) / width, (status.box[1] + status.box[3] / 2) / height] : null;
      if (one.trail.length && BigInt(one.trail.at(-1).stamp) >= BigInt(status.stamp)) one.trail = [];
      one.trail.push({ stamp: status.stamp, place });
      while (one.trail.length && stampSeconds(status.stamp, one.trail[0].stamp) > TRAIL_S) one.trail.shift();
    }
  }

  hearLink(link) {
    this.link = link;
    this.heardLink = performance.now();
    const there = link.tracker === "live" || link.tracker === "waiting";
    const was = this.wasTracker;
    if (was === "there" && !there) {
      this.vanished = this.fates();
      this.log(`The tracker has stopped. ${this.ends()}`.trim(), "bad", { state: "NO TRACKER" });
      this.alarm("NO TRACKER");
    } else if (was === "away" && there) { this.vanished = ""; this.log("The tracker is back.", "good", { state: "TRACKER" }); }
    this.wasTracker = there ? "there" : "away";
    if (!there) this.targets.clear();
  }

  // What became of each target, for the log.
  ends() {
    return [...this.targets].map(([id, { status }]) => `${capital(target(id))} was ${look(status).word}: nobody follows it now.`).join(" ");
  }

  // The same for where there is little room.
  fates() { return this.targets.size > 1 ? `Nobody follows ${this.several()} now.` : this.ends(); }

  several() {
    const names = [...this.targets.keys()];
    const more = names.length > NAMED ? ` and ${names.length - NAMED} more` : "";
    return `targets ${names.slice(0, NAMED).join(", ")}${more}`;
  }

  // The tracker may well follow them still.
  closed() {
    const [first] = this.targets.values();
    this.vanished = !first ? "" : this.targets.size > 1 ? `Last heard of ${this.several()}.` : `Last heard: ${target(first.status.target_id)} ${look(first.status).word}.`;
    this.link = null;
    this.people = null;
  }

  get there() { return this.link?.tracker === "live" || this.link?.tracker === "waiting"; }
  get silence() { return this.link ? this.link.silence === null ? null : this.link.silence : null; }
  get dead() { return this.link && this.link.silence !== null && this.link.silence > SILENT_S ? this.link.silence : 0; }
  // Seconds that nothing was heard of the targets.
  get silentFor() { return this.heard ? (performance.now() - this.heard) / 1000 : 0; }

  // Whether the picture on the screen is what the newest word is about, as near as makes no matter.
  get behind() {
    return !this.shown || this.newest === null || stampSeconds(this.newest, this.shown.stamp) > BEHIND_S;
  }

  // The statuses to speak of: those of the picture, else the newest.
  statuses() {
    if (!this.behind && this.shown.statuses.length) {
      const said = this.shown.statuses.filter((status) => this.targets.has(status.target_id));
      if (said.length === this.targets.size) return said;
    }
    return [...this.targets.values()].map(({ status }) => status);
  }

  // The target that orders without a name are about.
  get subject() {
    if (this.targets.has(this.selected)) return this.selected;
    return this.targets.size === 1 ? this.targets.keys().next().value : "";
  }

  // {key, word, note, status}: what is written in large letters.
  summary() {
    if (!this.link) return { key: "OFFLINE", word: "OFFLINE", note: `No connection to the ground station; trying again. ${this.vanished}`.trim() };
    if (!this.there) return { key: "NO TRACKER", word: "NO TRACKER", note: this.noTracker() };
    if (this.dead) return { key: "NO VIDEO", word: "NO VIDEO", note: `The camera is silent for ${seconds(this.dead)}. ${this.fates()}`.trim() };
    if (this.link.tracker === "waiting" && !this.targets.size) return { key: "IDLE", word: "WAITING", note: this.link.phase ? `The tracker is not at work: ${this.link.phase}.` : "The tracker waits for images." };
    if (this.targets.size && this.silentFor > SILENT_S) return { key: "NO NEWS", word: "NO NEWS", note: `Nothing heard of ${this.targets.size > 1 ? "the targets" : target([...this.targets.keys()][0])} for ${seconds(this.silentFor)}.` };
    const said = this.statuses();
    const status = said.find((one) => one.target_id === this.selected) ?? [...said].sort((a, b) => NEED.indexOf(look(a).key) - NEED.indexOf(look(b).key))[0];
    if (!status) return { key: "IDLE", word: "NO TARGET", note: "Tap the target, or drag a box around it." };
    const { key, word } = look(status);
    return { key, word, note: this.note(status, key), status };
  }

  note(status, key) {
    const name = this.targets.size > 1 ? `${capital(target(status.target_id))}, 1 of ${this.targets.size}. ` : `${capital(target(status.target_id))}. `;
    if (key === "LOST") return `${name}${this.lost(status)}`;
    const again = status.reacquisitions && key === "TRACKING" ? ` Found again ${status.reacquisitions} ${status.reacquisitions > 1 ? "times" : "time"}.` : "";
    return `${name}${NOTES[key]}${again}`;
  }

  lost(status) {
    const since = this.lostFor(status);
    const left = status.seconds_to_give_up;
    return `Not seen for ${seconds(since)}; searched for${left === null ? "" : `, given up in ${seconds(left)}`}.`;
  }

  lostFor(status) {
    return status.seconds_lost ?? (performance.now() - (this.targets.get(status.target_id)?.lostAt ?? performance.now())) / 1000;
  }

  noTracker() {
    const base = this.link.tracker === "gone" ? "It has stopped answering." : this.vanished ? "It has ended." : "There is no tracker on board, or it cannot be reached.";
    return `${base} ${this.vanished}`.trim();
  }

  // Why a target cannot be marked now; empty if it can.
  cannotMark() {
    if (!this.link) return "Not connected to the ground station: nothing can be marked.";
    if (!this.there) return "There is no tracker: nothing can be marked.";
    if (this.link.tracker === "waiting" && this.link.phase && !this.dead) return `The tracker is not at work: ${this.link.phase}.`;
    if (this.link.silence === null) return "There has been no image yet.";
    if (this.dead) return `The camera is silent for ${seconds(this.dead)}: nothing can be followed. Mark when the video is back.`;
    return this.cannotAct();
  }

  cannotAct() {
    if (!this.link) return "Not connected to the ground station.";
    if (this.people?.control && !this.people.yours) return `${this.people.control} has the control.`;
    return "";
  }

  cannotStop() {
    if (!this.link) return "Not connected to the ground station.";
    if (!this.there) return "There is no tracker to stop.";
    if (!this.targets.size) return "Nothing is followed.";
    return this.cannotAct();
  }

  // [title, text] to lay over the video, if it does not show the present.
  notice() {
    if (!this.link) return ["Connection to the ground station lost", "Trying again."];
    if (this.link.problem) return ["The video cannot be shown", this.link.problem];
    if (this.link.silence === null) return ["Waiting for video", this.link.publishers ? "The camera is there, but has sent no image yet." : `No camera sends on ${this.link.topic}. Is it switched on?`];
    if (this.dead) return [`No image for ${seconds(this.dead)}`, this.link.publishers ? "The camera is there, but sends nothing." : "The camera has gone."];
    return this.shown ? null : ["Waiting for video", ""];
  }

  // Of the picture on the screen, in seconds; null: unknown.
  pictureAge(offset) {
    if (!this.shown || this.shown.age === null || offset === null) return null;
    return Math.max(this.shown.age + performance.now() / 1000 + offset - this.shown.sent, 0);
  }
}

export const written = (status) => (status.box ? status.confidence.toFixed(2) : "–");
export { stampSeconds };
