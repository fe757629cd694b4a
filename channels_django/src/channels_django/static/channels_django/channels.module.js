// channels.js as an ES module.

import "./channels.js";

export const { Binding, Connection, Stream, WebSocketBridge } = globalThis.channels;
