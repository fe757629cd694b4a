// channels.js as a plain script: the same under the global name "channels".

export * from "./channels.module.js";
export as namespace channels;
