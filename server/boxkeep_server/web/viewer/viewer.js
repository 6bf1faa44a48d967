// The screen of a sandbox's browser. One WebSocket carries both: binary frames are the display's, text frames are ours.
import RFB from "./novnc/core/rfb.js";
import keysyms from "./novnc/core/input/keysymdef.js";
import keys from "./novnc/core/input/keysym.js";

const AGAIN_MS = 1000;
const REASONS = {
  mfa: "a second factor is asked for", captcha: "there is a captcha", approval: "somebody has to approve",
  login_failed: "the login failed", ambiguous_ui: "it is not clear what to do", file_download: "a file is to be downloaded",
  custom: "help is needed",
};
const at = (id) => document.getElementById(id);
const wish = new URLSearchParams(location.hash.slice(1));
const sandbox = wish.get("id");
let token = wish.get("token");
let display = null;
let socket = null;
let state = {};
history.replaceState(null, "", location.pathname); // the token is for this page, not for who looks over a shoulder

// What noVNC takes for a WebSocket: the binary half of ours.
class Channel {
  constructor(inner) {
    this.inner = inner;
    this.protocol = "";
    this.onopen = this.onmessage = this.onclose = this.onerror = null;
  }
  get binaryType() { return "arraybuffer"; }
  set binaryType(_) {}
  get readyState() { return this.inner.readyState; }
  send(data) { this.inner.send(data); }
  close() { this.inner.close(); }
}

function connect() {
  const base = location.origin.replace(/^http/, "ws") + location.pathname.replace(/\/viewer\/.*$/, "");
  socket = new WebSocket(`${base}/v1/sandboxes/preview/display?id=${sandbox}&token=${encodeURIComponent(token)}`);
  socket.binaryType = "arraybuffer";
  const channel = new Channel(socket);
  socket.onmessage = (event) => {
    if (typeof event.data === "string") hear(JSON.parse(event.data), channel);
    else channel.onmessage?.(event);
  };
  socket.onclose = (event) => {
    channel.onclose?.(event);
    drop();
    if (event.code === 4401 || event.code === 1006 && !state.token) return say("This link is over: ask for a new one", "");
    say(event.code === 4410 ? "The sandbox is not running" : event.reason || "Connecting…", "");
    setTimeout(connect, AGAIN_MS);
  };
}

function hear(said, channel) {
  if (said.refused) return say(said.refused, document.body.dataset.mode);
  state = said;
  token = said.token || token;
  if (said.display && !display) {
    display = new RFB(at("screen"), channel, { shared: true });
    display.scaleViewport = true;
    display.background = "transparent";
  }
  show();
}

function drop() {
  try { display?.disconnect(); } catch { /* it has gone by itself */ }
  display = null;
  at("screen").replaceChildren();
  at("recorded").hidden = true;
}

function show() {
  const asked = state.handoff && ["pending", "accepted"].includes(state.handoff.status) ? state.handoff : null;
  if (display) display.viewOnly = !state.driving;
  if (state.driving) say("You drive", "you");
  else if (state.controlMode !== "ai") say(`${state.controller || "A person"} drives`, "person");
  else if (asked) say(`The agent waits for a person: ${REASONS[asked.reason]}`, "person");
  else say(state.status === "ready" ? "The agent drives" : "The browser is starting", "ai");
  at("recorded").hidden = !(state.recorded && display);
  at("request").hidden = !asked?.message;
  at("request").textContent = asked?.message || "";
  at("take").hidden = !state.mayDrive || state.controlMode !== "ai" || asked?.status === "accepted";
  at("give").hidden = !state.driving;
  at("cancel").hidden = !(state.mayDrive && asked?.status === "pending");
  at("keyboard").hidden = !(state.driving && matchMedia("(pointer: coarse)").matches);
}

function say(words, mode) {
  at("who").textContent = words;
  document.body.dataset.mode = mode;
}

const ask = (what) => socket?.readyState === WebSocket.OPEN && socket.send(JSON.stringify(what));
at("take").onclick = () => ask({ do: "take" });
at("give").onclick = () => ask({ do: "give" });
at("cancel").onclick = () => ask({ do: "cancel" });

// A phone's keyboard shows only for a field; what lands in it is typed on the display.
at("keyboard").onclick = () => at("typed").focus();
at("typed").oninput = (event) => {
  for (const letter of event.target.value) display?.sendKey(keysyms.lookup(letter.codePointAt(0)));
  if (event.inputType === "deleteContentBackward") display?.sendKey(keys.XK_BackSpace, "Backspace");
  event.target.value = "";
};
at("typed").onkeydown = (event) => {
  const special = { Enter: keys.XK_Return, Backspace: keys.XK_BackSpace, Tab: keys.XK_Tab, Escape: keys.XK_Escape }[event.key];
  if (special === undefined) return;
  event.preventDefault();
  display?.sendKey(special, event.code);
};

if (sandbox && token) connect();
else say("This link is not whole: ask for a new one", "");
