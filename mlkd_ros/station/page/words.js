// SPDX-License-Identifier: Apache-2.0
// What the page says, in the operator's words.

export const seconds = (value) => (value < 9.95 ? `${Math.max(value, 0).toFixed(1)} s` : value < 90 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`);
export const age = (value) => (value < 1 ? `${Math.round(Math.max(value, 0) * 1000)} ms` : seconds(value));
export const clock = (date = new Date()) => date.toTimeString().slice(0, 8);
export const target = (id) => `target ${id}`;
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// Below this a target that is tracked is shown as one that may not be: the same colour and word
// for the same number, everywhere.
export const SURE_FROM = 0.5;

// The one word and colour for a status.
export function look(status) {
  if (status.state === "TRACKING" && status.confidence < SURE_FROM) return { key: "WEAK", word: "TRACKING, weak" };
  if (status.state === "IDLE") return { key: "IDLE", word: "NO TARGET" };
  return { key: status.state, word: status.state.replace("_", " ") };
}

export const COLOURS = {
  TRACKING: "#5ae678", WEAK: "#ffbe3c", UNCERTAIN: "#ffbe3c", LOST: "#ff8f8f", GIVEN_UP: "#b4c3d1", IDLE: "#b4c3d1",
};

export const NOTES = {
  TRACKING: "Seen in this picture.",
  WEAK: "Probably this one, on weak evidence.",
  UNCERTAIN: "Weak evidence. A box is the best guess.",
  GIVEN_UP: "Not seen for too long, no longer searched for. Mark it again.",
};

// How a change of state is told in the log.
export function change(id, from, to) {
  const name = capital(target(id));
  if (to === "TRACKING") return from === "LOST" || from === "GIVEN_UP" ? `${name} found again` : from ? `${name} is clear again` : `${name} is followed`;
  if (to === "UNCERTAIN") return `${name} is uncertain`;
  if (to === "LOST") return `${name} lost: searching`;
  if (to === "GIVEN_UP") return `${name} given up: mark it again`;
  return `${name}: ${to}`;
}

// Why the tracker refused, by the code of its answer.
const REFUSED = {
  NO_IMAGE: "The tracker has had no image yet.",
  STAMP_OUTSIDE_HISTORY: "That picture is too old: the tracker no longer has it. Mark again on a newer one.",
  INVALID_BOX: "That box is too small. Mark it larger, or tap the target.",
  BOX_OUTSIDE_IMAGE: "That box is outside of the picture.",
  TOO_MANY_TARGETS: "The tracker follows as many targets as it may. Stop one first, or choose one and press Re-mark.",
  UNUSABLE_IMAGE: "The tracker cannot use that image.",
  NOT_READY: "The tracker is not ready yet.",
  INTERNAL_ERROR: "The tracker failed on this. Try again.",
  INVALID_TARGET_ID: "The tracker does not take that name.",
  UNKNOWN_TARGET: "That target is no longer followed.",
  BUSY: "The order before is not answered yet.",
  NO_ANSWER: "The tracker did not answer.",
};

export function refusal(reply) {
  return REFUSED[reply.code] ?? capital(`${reply.message.replace(/\.$/, "")}.`);
}

export function marked(reply) {
  const late = reply.now && reply.stamp ? Number(BigInt(reply.now) - BigInt(reply.stamp)) / 1e9 : 0;
  const when = late > 0.3 ? ` on the picture of ${seconds(late)} ago` : "";
  const name = capital(target(reply.target_id));
  if (["LOST", "GIVEN_UP"].includes(reply.state)) return `${name} marked${when}, but lost since: searching.`;
  return `${name} marked${when}.`;
}
