// The page of a room: shows what arrives on the socket and sends what is typed.
// Everything people write reaches the page through textContent, so it is never read as HTML.

import { Connection } from "../channels_django/channels.module.js";
import { Presence } from "./presence.js";

const find = (id) => document.getElementById(id);
const room = find("main");
const log = find("log");
const text = find("text");
// Nothing waits in the connection: whatever has not been heard back is said again when it has returned.
const connection = new Connection(room.dataset.socket, { queueLimit: 0 });
const presence = new Presence();
const title = document.title;

const TYPING_EVERY = 2_000; // how often we tell that we are typing
const TYPING_SHOWN = 4_000; // how long we believe that somebody is
const NOTICE_DELAY = 2_500; // a reload is "left" and "joined": who comes back this soon was not away
const SAME_BREATH = 5 * 60_000; // messages of one person this close together share one heading

let me = null;
let unread = 0;
let early = null; // messages that came before the history they belong behind; null once it is there
const shown = new Set(); // ids of messages on the page: after a reconnect some arrive again
const pending = new Map(); // ref -> {text, element}: said, but not yet heard back
const typists = new Map(); // name -> timer
const goodbyes = new Map(); // name -> timer

// Small parts -------------------------------------------------------------------------------------------------------

function element(tag, className, content) {
  const made = document.createElement(tag);
  made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

function avatar(name) {
  const initials = name.split(/[\s._-]+/).filter(Boolean).slice(0, 2).map((word) => [...word][0]).join("");
  const made = element("span", "avatar", initials.toUpperCase());
  let hue = 0;
  for (const character of name) hue = (hue * 31 + character.codePointAt(0)) % 360;
  made.style.setProperty("--hue", hue);
  made.setAttribute("aria-hidden", "true");
  return made;
}

// Add to the log, and follow it unless the reader has scrolled up.
function add(made, follow = false) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  log.append(made);
  if (atEnd || follow) log.scrollTop = log.scrollHeight;
  else if (made.matches(".said")) find("latest").hidden = false;
}

function notice(words, kind = "") {
  add(element("div", `notice ${kind}`, words));
}

// Messages ----------------------------------------------------------------------------------------------------------

function bubble({ user, guest, text: words, at }) {
  const when = new Date(at);
  const previous = log.lastElementChild;
  const day = when.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });
  if (log.dataset.day !== day) {
    log.dataset.day = day;
    const today = new Date().toDateString() === when.toDateString();
    add(element("div", "notice day", today ? "Today" : day));
  }
  const more =
    previous?.dataset.user === user && log.lastElementChild === previous && when - previous.dataset.at < SAME_BREATH;
  const made = element("div", `said${user === me ? " mine" : ""}${more ? " more" : ""}`);
  made.dataset.user = user;
  made.dataset.at = when.getTime();
  const by = element("p", "by");
  const time = element("time", "", when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = at;
  time.title = when.toLocaleString();
  by.append(element("strong", "", user), guest ? " (guest) " : " ", time);
  const said = element("p", "bubble", words);
  said.dir = "auto";
  said.title = when.toLocaleString();
  made.append(avatar(user), by, said);
  return made;
}

function onSaid(frame) {
  if (early) return void early.push(frame);
  stopTyping(frame.user);
  if (frame.user === me && pending.has(frame.ref)) {
    pending.get(frame.ref).element.remove();
    pending.delete(frame.ref);
  }
  if (shown.has(frame.id)) return;
  shown.add(frame.id);
  log.querySelector(".empty")?.remove();
  // What is still under way stays below what has arrived.
  for (const waiting of pending.values()) waiting.element.remove();
  const made = bubble(frame);
  made.dataset.id = frame.id;
  add(made, frame.user === me);
  for (const waiting of pending.values()) add(waiting.element);
  if (document.hidden) document.title = `(${++unread}) ${title}`;
}

function onHistory({ messages }) {
  const gap = shown.size > 0 && messages.length > 0 && !messages.some(({ id }) => shown.has(id));
  if (gap) notice("While you were away more was said than fits here: reload the page for the latest.");
  const later = early ?? [];
  early = null;
  [...messages, ...later].forEach(onSaid);
  unread = 0;
  document.title = title;
  if (!log.childElementCount) notice("Nobody has said anything here yet. Be the first!", "empty");
}

function say(words) {
  const ref = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const made = bubble({ user: me ?? "You", guest: false, text: words, at: new Date().toISOString() });
  made.classList.add("pending", "mine");
  pending.set(ref, { text: words, element: made });
  add(made, true);
  connection.send({ type: "say", text: words, ref });
}

// People ------------------------------------------------------------------------------------------------------------

function showPeople() {
  const people = presence.list();
  find("count").textContent = people.length || "";
  find("people").replaceChildren(
    ...people.map(({ user, guest }) => {
      const item = element("li", "");
      item.append(avatar(user), element("span", "", user));
      if (user === me) item.append(element("small", "", "you"));
      else if (guest) item.append(element("small", "", "guest"));
      return item;
    }),
  );
}

function onChange(frame) {
  if (!presence.change(frame)) return;
  showPeople();
  if (frame.type === "joined") {
    const returned = goodbyes.has(frame.user);
    clearTimeout(goodbyes.get(frame.user));
    goodbyes.delete(frame.user);
    if (!returned && frame.user !== me) notice(`${frame.user} joined`);
  } else {
    stopTyping(frame.user);
    const goodbye = () => {
      goodbyes.delete(frame.user);
      notice(`${frame.user} left`);
    };
    goodbyes.set(frame.user, setTimeout(goodbye, NOTICE_DELAY));
  }
}

function showTypists() {
  const names = [...typists.keys()];
  const few = names.length < 3 ? names.join(" and ") : `${names.length} people`;
  find("typing").textContent = names.length ? `${few} ${names.length === 1 ? "is" : "are"} typing…` : "";
}

function onTyping({ user }) {
  if (user === me) return;
  clearTimeout(typists.get(user));
  typists.set(user, setTimeout(() => stopTyping(user), TYPING_SHOWN));
  showTypists();
}

function stopTyping(user) {
  clearTimeout(typists.get(user));
  typists.delete(user);
  showTypists();
}

// The connection ----------------------------------------------------------------------------------------------------

function onWelcome({ user }) {
  me = user;
  showError("");
  showState("open");
}

function onHere(frame) {
  presence.here(frame);
  showPeople();
  // Whatever was under way when the connection broke is said again; the room keeps each ref once.
  for (const [ref, { text: words }] of pending) connection.send({ type: "say", text: words, ref });
}

function onError({ reason, ref }) {
  showError(reason);
  const refused = pending.get(ref);
  if (!refused) return;
  refused.element.remove();
  pending.delete(ref);
  if (!text.value) text.value = refused.text; // give it back, to be mended
}

function showError(reason) {
  find("error").textContent = reason;
  find("error").hidden = !reason;
}

const handlers = {
  welcome: onWelcome,
  history: onHistory,
  here: onHere,
  said: onSaid,
  joined: onChange,
  left: onChange,
  typing: onTyping,
  error: onError,
};

connection.on("message", (frame) => handlers[frame.type]?.(frame)); // newer servers may say more

connection.on("state", ({ state, wait }) => {
  if (state === "open") return; // not before the room has said welcome
  if (state === "connecting") {
    early = [];
    presence.clear();
  }
  showState(state === "connecting" ? state : "closed", wait);
});

function showState(state, wait = 0) {
  const seconds = Math.max(1, Math.round(wait / 1000));
  const away = wait ? (navigator.onLine ? `Reconnecting in ${seconds} s` : "You are offline") : "Disconnected";
  find("state").dataset.state = state;
  find("state").textContent = { connecting: "Connecting…", open: "Connected", closed: away }[state];
}

// Writing -----------------------------------------------------------------------------------------------------------

let lastTyping = 0;

text.addEventListener("input", () => {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
  if (text.value && Date.now() - lastTyping > TYPING_EVERY && connection.send({ type: "typing" })) {
    lastTyping = Date.now();
  }
});

text.addEventListener("keydown", (event) => {
  // Enter sends, Shift+Enter breaks the line; an input method may use Enter for itself.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  find("composer").requestSubmit();
});

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (words) {
    showError("");
    say(words);
  }
  text.value = "";
  text.style.height = "auto";
  lastTyping = 0;
  text.focus();
});

log.addEventListener("scroll", () => {
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 80) find("latest").hidden = true;
});
find("latest").addEventListener("click", () => (log.scrollTop = log.scrollHeight));

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
});

if (matchMedia("(pointer: fine)").matches) text.focus(); // on a phone the keyboard would cover the room
