// Run within pages, in a world of its own: reads what a person would see, and finds what they would act on. It is one
// function expression, called with what to do, the page's own number, and what that needs.
//
// A page shares its document with that world and nothing else. It may name its elements so that they hide properties of
// the document and of forms: everything is therefore asked by the prototypes, which are the world's own.
//
// What is asked about an element by its number is asked of the document, by its own number, in which it was given out: a
// world may have come to be another document's.
function (what, page, ...given) {
  const WIDTH = 1000, NAME = 160, OPTIONS = 20, NODES = 300000, TIME_MS = 6000, TEXT = 50000;
  const of = (kind, name, node) => Reflect.get(kind.prototype, name, node);
  const ask = (kind, name, node, ...more) => Reflect.apply(kind.prototype[name], node, more);
  const attribute = (element, name) => ask(Element, "getAttribute", element, name);
  const is = (element, kind) => element instanceof kind;
  const tag = element => of(Element, "localName", element);
  const squeeze = text => String(text ?? "").slice(0, TEXT).replace(/\s+/g, " ").trim();
  const short = text => { text = squeeze(text); return text.length > NAME ? text.slice(0, NAME) + "…" : text; };
  const said = text => JSON.stringify(short(text));
  const key = Symbol.for("boxkeep");
  let store = globalThis[key];
  if (store?.page !== page) {
    store = {page, numbers: new WeakMap(), elements: []};
    if (what === "read") globalThis[key] = store;
  }
  const number = element => {
    if (!store.numbers.has(element)) store.numbers.set(element, store.elements.push(new WeakRef(element)));
    return store.numbers.get(element);
  };
  const element = at => {
    const found = store.elements[at - 1]?.deref();
    return found && of(Node, "isConnected", found) ? found : null;
  };

  const INPUTS = {button: "button", submit: "button", reset: "button", image: "button", checkbox: "checkbox",
    radio: "radio", range: "slider", number: "spinbutton", search: "searchbox", file: "file chooser", hidden: null};
  const SPOKEN = new Set(["button", "link", "checkbox", "radio", "switch", "tab", "menuitem", "menuitemcheckbox",
    "menuitemradio", "option", "combobox", "textbox", "searchbox", "slider", "spinbutton", "treeitem", "gridcell"]);
  const TICKED = new Set(["checkbox", "radio"]);
  const HOLDERS = new Set(["clickable", "gridcell", "treeitem"]);
  const UNSHOWN = new Set(["script", "style", "noscript", "template", "head", "title", "datalist"]);

  function role(element, style) {
    const name = tag(element), spoken = squeeze(attribute(element, "role")).toLowerCase();
    if (is(element, HTMLInputElement)) {
      const type = of(HTMLInputElement, "type", element);
      if (SPOKEN.has(spoken) && type !== "hidden") return spoken;
      return type in INPUTS ? INPUTS[type] : "textbox";
    }
    if (SPOKEN.has(spoken)) return spoken;
    if (name === "a" && attribute(element, "href") !== null) return "link";
    if (name === "button" || name === "summary") return "button";
    if (name === "textarea") return "textbox";
    if (name === "select") return of(HTMLSelectElement, "multiple", element) ? "listbox" : "combobox";
    const editable = attribute(element, "contenteditable");
    if (editable !== null && editable !== "false") return "textbox";
    if (attribute(element, "onclick") !== null) return "clickable";
    const around = of(Node, "parentElement", element);
    if (style.cursor === "pointer" && around && getComputedStyle(around).cursor !== "pointer" && name !== "label")
      return "clickable";
    return null;
  }

  function textOf(element) {
    return is(element, HTMLElement) ? of(HTMLElement, "innerText", element) : of(Node, "textContent", element);
  }

  function labels(element) {
    const named = squeeze(attribute(element, "aria-labelledby"));
    if (named) {
      const root = ask(Node, "getRootNode", element);
      const found = named.split(" ").slice(0, 8).map(id => {
        try { return ask(root instanceof Document ? Document : DocumentFragment, "getElementById", root, id); }
        catch { return null; }
      });
      const words = found.filter(Boolean).map(textOf).join(" ");
      if (squeeze(words)) return words;
    }
    for (const kind of [HTMLInputElement, HTMLSelectElement, HTMLTextAreaElement])
      if (is(element, kind)) return [...(of(kind, "labels", element) ?? [])].slice(0, 4).map(textOf).join(" ");
    return "";
  }

  function pictured(element) {
    const found = ask(Element, "querySelector", element, "[aria-label],[alt]:not([alt='']),svg title");
    if (!found) return "";
    return attribute(found, "aria-label") || attribute(found, "alt") || of(Node, "textContent", found);
  }

  function named(element, kind) {
    const field = is(element, HTMLInputElement) || is(element, HTMLTextAreaElement) || is(element, HTMLSelectElement);
    const pressed = is(element, HTMLInputElement) && kind === "button" ? of(HTMLInputElement, "value", element) : "";
    const inner = field || kind === "textbox" ? "" : textOf(element);
    return [attribute(element, "aria-label"), labels(element), pressed, inner, attribute(element, "alt"),
      attribute(element, "placeholder"), attribute(element, "title"), field ? "" : pictured(element),
      field ? attribute(element, "name") : ""].map(squeeze).find(Boolean) ?? "";
  }

  function options(element) {
    const all = of(HTMLSelectElement, "options", element), shown = [];
    const label = one => said(of(HTMLOptionElement, "label", one));
    for (let at = 0; at < Math.min(all.length, OPTIONS); at++) shown.push(label(all[at]));
    const chosen = [...of(HTMLSelectElement, "selectedOptions", element)].slice(0, OPTIONS);
    const more = all.length > OPTIONS ? ` and ${all.length - OPTIONS} more` : "";
    return ` = ${chosen.map(label).join(", ")}; options: ${shown.join(" | ")}${more}`;
  }

  function state(element, kind) {
    const flags = [], isTrue = name => attribute(element, name) === "true";
    const ticked = is(element, HTMLInputElement) && TICKED.has(of(HTMLInputElement, "type", element));
    if (ticked ? of(HTMLInputElement, "checked", element) : isTrue("aria-checked")) flags.push("checked");
    if (ask(Element, "matches", element, ":disabled") || isTrue("aria-disabled")) flags.push("disabled");
    if (ask(Element, "matches", element, ":required")) flags.push("required");
    if (isTrue("aria-selected")) flags.push("selected");
    if (attribute(element, "aria-expanded") !== null) flags.push(isTrue("aria-expanded") ? "expanded" : "collapsed");
    if (element === deepest()) flags.push("focused");
    return content(element, kind) + (flags.length ? ` (${flags.join(", ")})` : "");
  }

  function content(element, kind) {
    if (is(element, HTMLSelectElement)) return options(element);
    if (is(element, HTMLTextAreaElement)) return ` = ${said(of(HTMLTextAreaElement, "value", element))}`;
    if (!is(element, HTMLInputElement)) return kind === "textbox" ? ` = ${said(textOf(element))}` : "";
    const type = of(HTMLInputElement, "type", element), value = of(HTMLInputElement, "value", element);
    if (type === "password") return value ? " (a password is filled in)" : " (a password; empty)";
    return TICKED.has(type) || kind === "button" ? "" : ` = ${said(value)}`;
  }

  function deepest() {
    let found = of(Document, "activeElement", document);
    for (let inner = found; inner; inner = of(Element, "shadowRoot", inner)?.activeElement) found = inner;
    return found;
  }

  function shown(element, style, kind) {
    if (style.display === "contents") return true;
    const opaque = kind === null || kind === "clickable";
    return ask(Element, "checkVisibility", element, {checkOpacity: opaque, checkVisibilityCSS: true});
  }

  // The lines of the document that begin from the character `from` on and before the character `to`, and where it is.
  function read(from, to) {
    const lines = [], until = Date.now() + TIME_MS;
    let length = 0, line = "", visited = 0, more = false;
    const keep = text => {
      if (length >= from && length < to) lines.push(text);
      length += text.length + 1;
    };
    const flush = () => {
      const whole = line.replace(/\s+/g, " ").trim();
      line = "";
      if (whole === "-" || /^#+$/.test(whole)) return;
      for (let at = 0; at < whole.length; at += WIDTH) keep(whole.slice(at, at + WIDTH));
    };
    const control = (element, kind) => {
      const goes = kind === "link" && attribute(element, "href") !== null;
      const address = goes ? ` → ${short(attribute(element, "href"))}` : "";
      const name = HOLDERS.has(kind) ? "" : " " + said(named(element, kind));
      keep(`[${page}.${number(element)}] ${kind}${name}${state(element, kind)}${address}`);
    };
    const enter = element => {
      const name = tag(element);
      if (UNSHOWN.has(name)) return;
      const style = getComputedStyle(element), kind = role(element, style);
      if (!shown(element, style, kind)) return;
      if (kind !== null) {
        flush();
        control(element, kind);
        if (!HOLDERS.has(kind)) return;
      }
      if (name === "iframe" || name === "frame") {
        flush();
        keep(`(a frame ${said(attribute(element, "title"))}; what is in it follows below)`);
        return;
      }
      if (name === "img" || attribute(element, "role") === "img") {
        const words = squeeze(attribute(element, "alt") || attribute(element, "aria-label"));
        if (words) line += ` (picture: ${short(words)}) `;
        return;
      }
      if (name === "br") return flush();
      const inline = style.display.startsWith("inline") || style.display === "contents";
      const cell = style.display === "table-cell";
      if (cell) line += " | ";
      else if (!inline) {
        flush();
        stack.push(flush);
      }
      if (/^h[1-6]$/.test(name)) line = "#".repeat(Number(name[1])) + " ";
      else if (name === "li") line = "- ";
      within(element, name);
    };
    const within = (element, name) => {
      if (name === "slot") {
        const assigned = ask(HTMLSlotElement, "assignedNodes", element, {flatten: true});
        if (assigned.length) {
          for (let at = Math.min(assigned.length, NODES) - 1; at >= 0; at--) stack.push([assigned[at], false]);
          return;
        }
      }
      const first = of(Node, "firstChild", of(Element, "shadowRoot", element) ?? element);
      if (first) stack.push([first, true]);
    };
    const root = of(Document, "documentElement", document);
    const stack = root ? [[root, false]] : [];
    while (stack.length) {
      const next = stack.pop();
      if (typeof next === "function") { next(); continue; }
      if (length >= to || ++visited > NODES || (visited % 256 === 0 && Date.now() > until)) { more = true; break; }
      const [node, follow] = next, after = follow ? of(Node, "nextSibling", node) : null;
      if (after) stack.push([after, true]);
      if (is(node, Text)) line += of(CharacterData, "data", node).slice(0, TEXT);
      else if (is(node, Element)) enter(node);
      if (line.length > TEXT) flush();
    }
    flush();
    return {lines, length, more: more || length > to, ...here()};
  }

  // Where an element is in its frame, in view; and what lies over it.
  function spot(at) {
    const found = element(at);
    if (!found) return {gone: true};
    ask(Element, "scrollIntoView", found, {block: "center", inline: "center", behavior: "instant"});
    const boxes = [...ask(Element, "getClientRects", found)].filter(box => box.width > 0 && box.height > 0);
    if (!boxes.length) return {hidden: true};
    const middle = (low, high, end) => (Math.max(low, 0) + Math.min(high, end)) / 2;
    const x = middle(boxes[0].left, boxes[0].right, innerWidth), y = middle(boxes[0].top, boxes[0].bottom, innerHeight);
    let hit = ask(Document, "elementFromPoint", document, x, y);
    for (let inner = hit; inner; ) {
      const root = of(Element, "shadowRoot", inner);
      inner = root && root !== found ? ask(ShadowRoot, "elementFromPoint", root, x, y) : null;
      if (inner === hit) break;
      hit = inner ?? hit;
    }
    const label = hit && ask(Element, "closest", hit, "label");
    const labelled = label && of(HTMLLabelElement, "control", label) === found;
    const meant = hit && (labelled || around(found, hit) || around(hit, found));
    return {x, y, over: meant ? null : hit ? `${tag(hit)} ${said(textOf(hit))}` : "the edge of the window"};
  }

  function around(outer, inner) {
    const up = node => is(node, ShadowRoot) ? of(ShadowRoot, "host", node) : of(Node, "parentNode", node);
    for (let node = inner; node; node = up(node)) if (node === outer) return true;
    return false;
  }

  const tell = element => {
    for (const name of ["input", "change"])
      ask(EventTarget, "dispatchEvent", element, new Event(name, {bubbles: true, composed: true}));
  };
  const put = (kind, element, value) => Reflect.set(kind.prototype, "value", value, element);
  const PICKED = new Set(["date", "time", "month", "week", "datetime-local", "color", "range"]);

  // Have the text of a field selected, so that what is typed replaces it; or set one that is not typed into.
  function prepare(at, text) {
    const found = element(at);
    if (!found) return {gone: true};
    if (ask(Element, "matches", found, ":disabled, [readonly]"))
      return {refused: "It is disabled, or may only be read."};
    ask(HTMLElement, "focus", found);
    const isInput = is(found, HTMLInputElement), type = isInput ? of(HTMLInputElement, "type", found) : "";
    if (isInput && PICKED.has(type)) {
      put(HTMLInputElement, found, text);
      tell(found);
      return {set: true};
    }
    if (isInput && ["checkbox", "radio", "button", "submit", "reset", "image", "file"].includes(type))
      return {refused: "It takes no text."};
    if (isInput) ask(HTMLInputElement, "select", found);
    else if (is(found, HTMLTextAreaElement)) ask(HTMLTextAreaElement, "select", found);
    else if (of(HTMLElement, "isContentEditable", found)) getSelection().selectAllChildren(found);
    return {};
  }

  // What a field holds now; null where that is a secret.
  function value(at) {
    const found = element(at);
    if (!found) return null;
    if (is(found, HTMLTextAreaElement)) return of(HTMLTextAreaElement, "value", found).slice(0, TEXT);
    if (!is(found, HTMLInputElement)) return textOf(found).slice(0, TEXT);
    const secret = of(HTMLInputElement, "type", found) === "password";
    return secret ? null : of(HTMLInputElement, "value", found).slice(0, TEXT);
  }

  function select(at, wish) {
    const found = element(at);
    if (!found) return {gone: true};
    if (!is(found, HTMLSelectElement)) return {refused: "It has no options to select; click it instead."};
    const all = [...of(HTMLSelectElement, "options", found)];
    const label = one => squeeze(of(HTMLOptionElement, "label", one));
    const valued = one => of(HTMLOptionElement, "value", one) === wish;
    const meant = all.find(one => label(one) === squeeze(wish)) ?? all.find(valued);
    if (!meant) return {refused: "There is no such option.", words: all.slice(0, 50).map(label).map(said).join(", ")};
    ask(HTMLElement, "focus", found);
    if (of(HTMLSelectElement, "multiple", found)) Reflect.set(HTMLOptionElement.prototype, "selected", true, meant);
    else Reflect.set(HTMLSelectElement.prototype, "selectedIndex", all.indexOf(meant), found);
    tell(found);
    return {chosen: short(label(meant))};
  }

  function has(text) {
    const body = of(Document, "body", document);
    return !!body && of(HTMLElement, "innerText", body).replace(/\s+/g, " ").includes(text.replace(/\s+/g, " ").trim());
  }

  const size = () => ({width: innerWidth, height: innerHeight});
  function here() {
    return {title: of(Document, "title", document).slice(0, WIDTH), url: of(Document, "URL", document).slice(0, TEXT)};
  }

  return {read, spot, element, prepare, value, select, has, size, here}[what](...given);
}
