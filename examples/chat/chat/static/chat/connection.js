// A WebSocket that comes back: it reconnects with growing, scattered waits and says what state it is in.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;

export class Connection extends EventTarget {
  // Events: "state" (detail: {state, wait}; state is "connecting", "open" or "closed", wait in ms) and "frame"
  // (detail: the parsed frame).
  #url;
  #socket = null;
  #failures = 0;
  #timer = 0;

  constructor(url) {
    super();
    this.#url = url;
    // There is no point in waiting on when the network is back or somebody looks at the page.
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
    // Somebody who goes to another page is gone, even where the browser keeps this one for the way back.
    addEventListener("pagehide", () => this.#socket?.close());
    addEventListener("pageshow", (event) => event.persisted && this.#hurry());
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  open() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#tell("connecting");
    const socket = (this.#socket = new WebSocket(this.#url));
    socket.addEventListener("message", (event) => {
      const frame = JSON.parse(event.data);
      if (frame.type === "welcome") {
        this.#failures = 0; // only now: a server that accepts and falls over again is no success
        this.#tell("open");
      }
      this.dispatchEvent(new CustomEvent("frame", { detail: frame }));
    });
    socket.addEventListener("close", () => this.#retry());
  }

  send(frame) {
    if (!this.isOpen) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  #retry() {
    const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.#failures++);
    const wait = longest * (0.5 + Math.random() / 2); // scattered, so that a crowd does not come back in one rush
    this.#tell("closed", wait);
    this.#timer = setTimeout(() => this.open(), wait);
  }

  #hurry() {
    if (this.#timer) this.open();
  }

  #tell(state, wait = 0) {
    this.dispatchEvent(new CustomEvent("state", { detail: { state, wait } }));
  }
}
