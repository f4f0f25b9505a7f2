// SPDX-License-Identifier: Apache-2.0
// What can be heard and felt: a target lost, found, given up. Off unless it is asked for.

const TONES = { // [frequency in Hz, seconds] one after another
  LOST: [[440, 0.14], [0, 0.07], [330, 0.22]],
  GIVEN_UP: [[330, 0.18], [0, 0.08], [262, 0.18], [0, 0.08], [220, 0.35]],
  "NO TRACKER": [[330, 0.18], [0, 0.08], [262, 0.18], [0, 0.08], [220, 0.35]],
  TRACKING: [[660, 0.1], [0, 0.04], [880, 0.12]],
};
const SHAKES = { LOST: [180, 80, 180], GIVEN_UP: [400], "NO TRACKER": [400], TRACKING: [60] };

export class Alarm {
  constructor() {
    this.sound = this.vibrate = false;
    this.played = []; // for whoever wants to know
    this.context = null;
  }

  // Browsers make no sound before somebody has touched the page.
  wake() { if (this.sound && !this.context && "AudioContext" in window) this.context = new AudioContext(); }

  raise(key, from = "") {
    if (!TONES[key] || (key === "TRACKING" && !["LOST", "GIVEN_UP"].includes(from))) return;
    this.played = [...this.played, key].slice(-20);
    if (this.vibrate) navigator.vibrate?.(SHAKES[key]);
    if (!this.sound) return;
    this.wake();
    this.play(TONES[key]);
  }

  play(tones) {
    const context = this.context;
    if (!context) return;
    context.resume();
    let at = context.currentTime + 0.02;
    for (const [frequency, length] of tones) {
      if (frequency) {
        const [tone, volume] = [context.createOscillator(), context.createGain()];
        tone.frequency.value = frequency;
        volume.gain.setValueAtTime(0, at);
        volume.gain.linearRampToValueAtTime(0.2, at + 0.01);
        volume.gain.linearRampToValueAtTime(0, at + length);
        tone.connect(volume).connect(context.destination);
        tone.start(at);
        tone.stop(at + length);
      }
      at += length;
    }
  }
}
