// SPDX-License-Identifier: Apache-2.0
// The connection to the ground station, and requests on it. What is said: ../protocol.py.

const PING_MS = 1000;
const STALLED_S = 1.5; // nothing heard for so long: the link stands still
const GIVEN_UP_S = 8; // or not connected: this connection is dead, whatever TCP believes of it

const REPLACED = 4001; // closed, because another connection says it is of this tab

// By this the station knows a tab again: after a reload, or when its connection has died, it takes the
// place that it had, with its name and the control.
function newTab() {
  const tab = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  try { sessionStorage.setItem("mlkd-tab", tab); } catch { /* for this visit only */ }
  return tab;
}
function oldTab() { try { return sessionStorage.getItem("mlkd-tab"); } catch { return null; } }

export class Wire {
  // heard: {text(message), picture(buffer), opened(), closed()}
  constructor(heard) {
    this.heard = heard;
    this.socket = null;
    this.retry = 0;
    this.requests = 0;
    this.pending = new Map(); // number: {message, at}
    this.last = 0;
    this.delays = [];
    this.offset = null; // seconds: the server's steady clock minus ours
    this.best = Infinity;
    this.overdue = false;
    this.tab = oldTab() ?? newTab();
    this.connect();
    setInterval(() => { this.ping(); this.check(); }, PING_MS);
  }

  get open() { return this.socket?.readyState === WebSocket.OPEN; }
  // Seconds there and back, the longest of the last pings.
  get delay() { return this.delays.length ? Math.max(...this.delays) : null; }
  get stalled() { const since = (performance.now() - this.last) / 1000; return this.open && this.last && since > STALLED_S ? since : 0; }

  connect() {
    const socket = this.socket = new WebSocket(new URL(`socket?tab=${this.tab}`, location.href).href.replace(/^http/, "ws"));
    socket.binaryType = "arraybuffer";
    this.begun = performance.now();
    this.last = 0;
    socket.onopen = () => {
      this.retry = 0;
      this.delays = [];
      this.offset = null;
      this.best = Infinity;
      this.last = performance.now();
      this.heard.opened();
      this.ping();
    };
    socket.onmessage = ({ data }) => {
      this.last = performance.now();
      if (typeof data !== "string") { this.heard.picture(data); return; }
      const message = JSON.parse(data);
      if (message.type === "pong") this.pong(message);
      else if (message.type === "reply") this.reply(message);
      else this.heard.text(message);
    };
    socket.onclose = ({ code }) => {
      // A tab that was duplicated: each of the two is one of its own.
      if (code === REPLACED) this.tab = newTab();
      this.closed();
    };
  }

  // Give up a connection on which nothing happens. A radio link can swallow all of it, and then a
  // browser waits for minutes. Only if it is so twice in a row: what came while the page itself was
  // held up is read in between.
  check() {
    const overdue = Boolean(this.socket) && performance.now() - (this.last || this.begun) > GIVEN_UP_S * 1000;
    if (overdue && this.overdue) {
      // It would say that it is closed only when the other side has answered.
      this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
      this.socket.close();
      this.closed();
    }
    this.overdue = overdue;
  }

  async closed() {
    this.socket = null;
    this.heard.closed();
    for (const request of [...this.pending.keys()]) this.reply({ request, ok: false, code: "CLOSED", message: "The connection was lost before the answer" });
    setTimeout(() => this.connect(), Math.min(4000, 400 * 2 ** this.retry++));
    // A browser does not tell why a WebSocket was refused; a plain request does.
    const reason = await fetch("./", { cache: "no-store", signal: AbortSignal.timeout(GIVEN_UP_S * 1000) }).then((r) => r.status, () => 0);
    if (reason === 401) location.reload();
  }

  send(message) {
    if (this.open) this.socket.send(JSON.stringify(message));
    return this.open;
  }

  // A request; resolves to the reply, always.
  ask(message) {
    const request = ++this.requests;
    return new Promise((done) => {
      this.pending.set(request, { message, at: performance.now(), done });
      if (!this.send({ ...message, request })) this.reply({ request, ok: false, code: "CLOSED", message: "Not connected to the ground station" });
    });
  }

  // The oldest request of a type that waits for its answer.
  waiting(type) { return [...this.pending.values()].find((one) => one.message.type === type); }

  reply(reply) {
    const asked = this.pending.get(reply.request);
    this.pending.delete(reply.request);
    asked?.done(reply);
  }

  ping() { this.send({ type: "ping", t: performance.now(), best: Math.min(...this.delays, 1e3) % 1e3 }); }

  pong({ t, now }) {
    const round = (performance.now() - t) / 1000;
    this.delays = [...this.delays, round].slice(-5);
    // The quickest exchange says most about the clocks; an old one is forgotten in the end.
    if (this.offset === null || round <= this.best * 1.2) { this.offset = now - (t / 1000 + round / 2); this.best = round; } else this.best *= 1.05;
  }
}
