// Types of the JavaScript client that comes with channels-django.

/** What JSON can hold. */
export type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

export type State = "connecting" | "open" | "waiting" | "closed";

export interface Options {
  /** Subprotocols, the preferred one first. */
  protocols?: string | string[];
  /** Milliseconds before the first try to come back; doubled for each that fails. 500. */
  firstWait?: number;
  /** Milliseconds that a wait grows to. 15,000. */
  longestWait?: number;
  /** Milliseconds after which a handshake is given up. 10,000. */
  handshakeTimeout?: number;
  /** Milliseconds after which a silent open socket counts as a success, and waits begin anew. 5,000. */
  stableAfter?: number;
  /** Close codes after which there is no coming back. 1000 and 1008. */
  giveUpOn?: number[];
  /** Messages that may wait; 0 keeps nothing. 1,000. */
  queueLimit?: number;
  /** Bytes that may wait. 1 MiB. */
  queueBytes?: number;
  /** Bytes that the browser may hold before messages wait here. 64 KiB. */
  highWater?: number;
  /** False: not before open() is called. */
  connect?: boolean;
}

export interface Events {
  open: (event: { isReturn: boolean }) => void;
  close: (event: { code: number; reason: string }) => void;
  state: (event: { state: State; wait: number }) => void;
  message: (value: any) => void;
  binary: (data: ArrayBuffer) => void;
  drain: () => void;
  invalid: (text: string) => void;
}

/** Ends what on() or listen() began. */
export type End = () => void;

/** A WebSocket that comes back. */
export class Connection {
  /** The URL may be relative, or a function that is called for each try. It connects by itself, soon. */
  constructor(url: string | URL | (() => string | URL), options?: Options);
  readonly state: State;
  readonly url: string;
  readonly bufferedAmount: number;
  on<Type extends keyof Events>(type: Type, listener: Events[Type]): End;
  open(): void;
  close(code?: number, reason?: string): void;
  /** True: it has left, or waits for its turn. False: there is no room for it, and it is not kept. */
  send(value: unknown): boolean;
  sendRaw(data: string | ArrayBuffer | ArrayBufferView | Blob): boolean;
  stream<Payload = any>(name: string): Stream<Payload>;
  binding<Data = Record<string, any>, Key = number>(name: string): Binding<Data, Key>;
}

/** One stream of a connection. */
export class Stream<Payload = any> {
  protected constructor();
  readonly connection: Connection;
  readonly name: string;
  listen(listener: (payload: Payload) => void): End;
  send(payload: Payload): boolean;
}

export interface Change<Data, Key> {
  action: "create" | "update" | "delete";
  pk: Key;
  data: Data;
  model: string;
}

export interface Refusal<Key> {
  action: "error";
  request: string | null;
  pk: Key | null;
  code: "malformed" | "unknown action" | "not found" | "invalid";
  errors: Record<string, string[]>;
  model: string;
}

/** The stream of a model binding. */
export class Binding<Data = Record<string, any>, Key = number> extends Stream<any> {
  on(action: "create" | "update" | "delete", listener: (data: Data, pk: Key, payload: Change<Data, Key>) => void): End;
  on(action: "error", listener: (payload: Refusal<Key>) => void): End;
  create(data: Partial<Data>): boolean;
  update(pk: Key, data: Partial<Data>): boolean;
  delete(pk: Key): boolean;
}

/** What pages written for Channels 1.x call. */
export class WebSocketBridge {
  readonly connection: Connection | null;
  connect(url?: string, protocols?: string | string[] | null, options?: Options): void;
  listen(listener: (value: any, stream: string | undefined) => void): void;
  demultiplex(name: string, listener: (payload: any, stream: string) => void): void;
  send(value: unknown): void;
  stream(name: string): { send(payload: unknown): boolean };
}
