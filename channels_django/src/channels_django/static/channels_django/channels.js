// A WebSocket that comes back, and what speaks over it: JSON, streams of a demultiplexer, bound models.
//
// As a plain script it defines `channels`; as an ES module, import from "channels.module.js" beside it.
// Nothing to build, nothing to install. Types are in channels.module.d.ts.

(() => {
  "use strict";

  const DEFAULTS = {
    protocols: [],
    firstWait: 500, // ms before the first try to come back; doubled for each that fails
    longestWait: 15_000,
    handshakeTimeout: 10_000,
    stableAfter: 5_000, // an open socket that has been silent for so long counts as a success too
    giveUpOn: [1000, 1008], // close codes after which there is no sense in coming back
    queueLimit: 1_000, // what may wait here, in messages and in bytes; 0 keeps nothing
    queueBytes: 1_048_576,
    highWater: 65_536, // bytes that the browser may hold; what is more waits here, where it is counted
  };
  const PUMP_EVERY = 50;

  const encoder = new TextEncoder();

  function sizeOf(data) {
    return typeof data === "string" ? encoder.encode(data).length : (data.byteLength ?? data.size);
  }

  function absolute(url) {
    const found = new URL(url, globalThis.location?.href);
    found.protocol = found.protocol.replace(/^http/, "ws");
    found.hash = ""; // a WebSocket's URL has none
    return found.href;
  }

  // Listeners by name; one that throws is reported and disturbs no other.
  class Listeners {
    #lists = new Map();

    add(type, listener) {
      if (typeof listener !== "function") throw new TypeError(`A listener is a function, not ${listener}.`);
      const list = this.#lists.get(type) ?? new Set();
      this.#lists.set(type, list.add(listener));
      return () => list.delete(listener);
    }

    tell(type, ...values) {
      for (const listener of [...(this.#lists.get(type) ?? [])]) {
        try {
          listener(...values);
        } catch (error) {
          if (typeof reportError === "function") reportError(error);
          else console.error(error);
        }
      }
    }
  }

  // States: "connecting", "open", "waiting" (to come back) and "closed" (for good).
  class Connection {
    #options;
    #url;
    #socket = null;
    #state = "closed";
    #listeners = new Listeners();
    #streams = new Map();
    #queue = [];
    #queuedBytes = 0;
    #isFull = false;
    #isEnded = false;
    #isGreeting = false;
    #failures = 0;
    #hasBeenOpen = false;
    #timers = { wait: 0, handshake: 0, stable: 0, pump: 0 };
    #watched = null;

    constructor(url, options = {}) {
      const known = ["connect", ...Object.keys(DEFAULTS)];
      const unknown = Object.keys(options).filter((name) => !known.includes(name));
      if (unknown.length) {
        throw new TypeError(
          `new Connection() has no option ${unknown.join(", ")}. There are: ${known.join(", ")}.`,
        );
      }
      this.#options = { ...DEFAULTS, ...options };
      this.#url = url;
      // Soon, and not at once, so that whoever made it can listen to all of it.
      if (options.connect !== false) queueMicrotask(() => this.#isEnded || this.open());
    }

    // "connecting", "open", "waiting" or "closed".
    get state() {
      return this.#state;
    }

    // The address of the WebSocket.
    get url() {
      return absolute(typeof this.#url === "function" ? this.#url() : this.#url);
    }

    // Bytes that have not left: those that wait here and those that the browser holds.
    get bufferedAmount() {
      return this.#queuedBytes + (this.#socket?.bufferedAmount ?? 0);
    }

    // Listen: "open" ({isReturn}), "close" ({code, reason}), "state" ({state, wait}), "message" (value), "binary" (data),
    // "drain" (), "invalid" (text). Returns a function that ends it.
    on(type, listener) {
      return this.#listeners.add(type, listener);
    }

    // Connect, at once also where it waits to come back. Nothing happens where it is connecting or open.
    open() {
      if (this.#socket) return;
      this.#isEnded = false;
      this.#watch();
      this.#clear("wait");
      let socket;
      try {
        socket = this.#socket = new WebSocket(this.url, this.#options.protocols);
      } catch (error) {
        this.#end({ code: 1006, reason: String(error) }, false);
        throw error; // an address or a subprotocol that is none
      }
      socket.binaryType = "arraybuffer";
      const isOurs = (handle) => (event) => this.#socket === socket && handle(event);
      socket.addEventListener("open", isOurs(() => this.#opened()));
      socket.addEventListener("message", isOurs((event) => this.#received(event.data)));
      socket.addEventListener("close", isOurs((event) => this.#ended(event)));
      this.#start("handshake", () => this.#abandon(), this.#options.handshakeTimeout);
      this.#tellState("connecting");
    }

    // Close for good, or until open() is called. What waits here is dropped.
    close(code = 1000, reason = "") {
      this.#socket?.close(code, reason); // throws, and nothing has happened, where they are none
      this.#end({ code, reason }, false);
    }

    // Send a value as JSON. True: it has left, or waits here for its turn. False: there is no room, or nothing may wait
    // ("drain" tells when there is room again); it is not kept.
    send(value) {
      const text = JSON.stringify(value);
      if (text === undefined) throw new TypeError(`${typeof value} cannot be sent: it has no JSON.`);
      return this.sendRaw(text);
    }

    // The same for text or bytes as they are.
    sendRaw(data) {
      if ((this.#queue.length === 0 || this.#isGreeting) && this.#isWritable) {
        this.#socket.send(data);
        return true;
      }
      const size = sizeOf(data);
      const { queueLimit, queueBytes } = this.#options;
      const isRoom = this.#queue.length < queueLimit && this.#queuedBytes + size <= queueBytes;
      if (!isRoom || this.#isEnded) {
        this.#isFull = !this.#isEnded;
        this.#pumpLater();
        return false;
      }
      this.#queue.push({ data, size });
      this.#queuedBytes += size;
      this.#pumpLater();
      return true;
    }

    // The stream of a demultiplexer.
    stream(name) {
      return this.#stream(name, Stream);
    }

    // The stream of a model binding.
    binding(name) {
      return this.#stream(name, Binding);
    }

    #stream(name, kind) {
      let found = this.#streams.get(name);
      if (!(found instanceof kind)) {
        const listeners = found?.listeners ?? new Listeners();
        found = new kind(this, name, listeners);
        this.#streams.set(name, found);
      }
      return found;
    }

    #opened() {
      this.#clear("handshake");
      const isReturn = this.#hasBeenOpen;
      this.#hasBeenOpen = true;
      this.#start("stable", () => (this.#failures = 0), this.#options.stableAfter);
      const socket = this.#socket;
      this.#tellState("open");
      if (this.#socket !== socket) return; // whoever was told has closed it
      // Who listens sends before what has waited: to say who it is, or to ask for what was missed.
      this.#isGreeting = true;
      this.#listeners.tell("open", { isReturn });
      this.#isGreeting = false;
      this.#pump();
    }

    #received(data) {
      this.#failures = 0; // only now: a server that accepts and falls over again is no success
      if (typeof data !== "string") return this.#listeners.tell("binary", data);
      let value;
      try {
        value = JSON.parse(data);
      } catch {
        return this.#listeners.tell("invalid", data);
      }
      this.#listeners.tell("message", value);
      const stream = value !== null && typeof value === "object" ? this.#streams.get(value.stream) : undefined;
      if (stream && "payload" in value) stream.receive(value.payload);
    }

    #abandon() {
      this.#end({ code: 1006, reason: "The handshake took too long." }, true);
    }

    #ended({ code, reason }) {
      this.#end({ code, reason }, !this.#options.giveUpOn.includes(code));
    }

    // The one way down, from whichever side. The socket may go on closing; we do not listen any more.
    #end({ code, reason }, comesBack) {
      const socket = this.#socket;
      this.#socket = null;
      for (const name of Object.keys(this.#timers)) this.#clear(name);
      if (socket && socket.readyState < WebSocket.CLOSING) socket.close();
      if (comesBack) {
        const { firstWait, longestWait } = this.#options;
        const longest = Math.min(longestWait, firstWait * 2 ** this.#failures++);
        const wait = longest * (0.5 + Math.random() / 2); // scattered, so that a crowd does not come back in one rush
        this.#start("wait", () => this.open(), wait);
        this.#tellState("waiting", wait);
      } else {
        this.#unwatch();
        this.#queue = [];
        this.#queuedBytes = 0;
        this.#isFull = false;
        this.#isEnded = true;
        this.#failures = 0;
        if (socket || this.#state !== "closed") this.#tellState("closed");
      }
      if (socket) this.#listeners.tell("close", { code, reason });
    }

    get #isWritable() {
      const socket = this.#socket;
      return socket?.readyState === WebSocket.OPEN && socket.bufferedAmount < this.#options.highWater;
    }

    #pump() {
      this.#clear("pump");
      let sent = 0;
      while (sent < this.#queue.length && this.#isWritable) {
        this.#socket.send(this.#queue[sent].data);
        this.#queuedBytes -= this.#queue[sent].size;
        sent += 1;
      }
      this.#queue.splice(0, sent);
      if (this.#isFull && this.#queue.length === 0 && this.#isWritable) {
        this.#isFull = false;
        this.#listeners.tell("drain");
      }
      this.#pumpLater();
    }

    // Browsers do not tell when their own buffer has room again.
    #pumpLater() {
      const isNeeded = this.#queue.length > 0 || this.#isFull;
      if (isNeeded && this.#state === "open" && !this.#timers.pump) {
        this.#start("pump", () => this.#pump(), PUMP_EVERY);
      }
    }

    #start(name, action, delay) {
      this.#clear(name);
      this.#timers[name] = setTimeout(() => {
        this.#timers[name] = 0;
        action();
      }, delay);
    }

    #clear(name) {
      clearTimeout(this.#timers[name]);
      this.#timers[name] = 0;
    }

    #tellState(state, wait = 0) {
      this.#state = state;
      this.#listeners.tell("state", { state, wait });
    }

    // What the page knows of the world: no sense in waiting on when the network is back or somebody looks.
    #watch() {
      if (this.#watched || typeof addEventListener !== "function") return;
      const hurry = () => this.#state === "waiting" && this.open();
      const watched = [
        [globalThis, "online", hurry],
        // Somebody who goes to another page is gone, even where the browser keeps this one for the way back.
        [globalThis, "pagehide", () => this.#socket && this.#end({ code: 1001, reason: "" }, true)],
        [globalThis, "pageshow", (event) => event.persisted && hurry()],
      ];
      if (globalThis.document) {
        watched.push([document, "visibilitychange", () => document.hidden || hurry()]);
      }
      for (const [target, type, listener] of watched) target.addEventListener(type, listener);
      this.#watched = watched;
    }

    #unwatch() {
      for (const [target, type, listener] of this.#watched ?? []) target.removeEventListener(type, listener);
      this.#watched = null;
    }
  }

  // One stream of a connection: frames {"stream": name, "payload": ...} in both directions.
  class Stream {
    constructor(connection, name, listeners) {
      this.connection = connection;
      this.name = name;
      this.listeners = listeners;
    }

    // Call a function with each payload. Returns a function that ends it.
    listen(listener) {
      return this.listeners.add("payload", listener);
    }

    // As Connection.send().
    send(payload) {
      return this.connection.send({ stream: this.name, payload });
    }

    receive(payload) {
      this.listeners.tell("payload", payload);
      const action = payload !== null && typeof payload === "object" ? payload.action : undefined;
      if (action === "error") this.listeners.tell("action:error", payload);
      else if (typeof action === "string") this.listeners.tell(`action:${action}`, payload.data, payload.pk, payload);
    }
  }

  // The stream of a model binding.
  class Binding extends Stream {
    // Call a function with (data, pk, payload) for "create", "update" or "delete"; with (payload) for "error".
    on(action, listener) {
      return this.listeners.add(`action:${action}`, listener);
    }

    create(data) {
      return this.send({ action: "create", data });
    }

    update(pk, data) {
      return this.send({ action: "update", pk, data });
    }

    delete(pk) {
      return this.send({ action: "delete", pk });
    }
  }

  // What pages written for Channels 1.x call; over a Connection.
  class WebSocketBridge {
    #connection = null;
    #listening = [];
    #demultiplexed = new Set();

    // The connection, or null before connect().
    get connection() {
      return this.#connection;
    }

    connect(url = globalThis.location.pathname, protocols = [], options = {}) {
      this.#connection?.close();
      this.#connection = new Connection(url, { ...options, protocols: protocols ?? [] });
      for (const listen of this.#listening) listen(this.#connection);
    }

    // Call a function with (value, stream) for what belongs to no demultiplexed stream.
    listen(listener) {
      this.#on((connection) =>
        connection.on("message", (value) => {
          const isFrame = value !== null && typeof value === "object" && value.stream !== undefined;
          if (!isFrame) listener(value, undefined);
          else if (!this.#demultiplexed.has(value.stream)) listener(value.payload, value.stream);
        }),
      );
    }

    // Call a function with (payload, stream) for one stream.
    demultiplex(name, listener) {
      this.#demultiplexed.add(name);
      this.#on((connection) => connection.stream(name).listen((payload) => listener(payload, name)));
    }

    #on(listen) {
      this.#listening.push(listen);
      if (this.#connection) listen(this.#connection);
    }

    send(value) {
      this.#connected.send(value);
    }

    stream(name) {
      return { send: (payload) => this.#connected.stream(name).send(payload) };
    }

    get #connected() {
      if (!this.#connection) throw new Error("Call connect(url) before you send.");
      return this.#connection;
    }
  }

  globalThis.channels = { ...globalThis.channels, Binding, Connection, Stream, WebSocketBridge };
})();
