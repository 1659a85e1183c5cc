/*
 * The hands of the page: what its templates call (window.mr), keys, dropped files, clicks for "explain here".
 * A plain script without dependencies; it has to be loaded before trame's client mounts the page.
 */
(() => {
  "use strict";

  const state = (key) => window.trame?.state?.get(key) ?? null;

  // ------------------------------------------------------------------------------------------------ asking the server

  /** Ask for a command of the server by its name, of the study that is shown. Never rejects: what goes wrong is said by
   * the server as a notice. */
  async function run(name, args = {}, study = shown()) {
    if (!window.trame?.client) return;
    try {
      await window.trame.trigger("do", [name, args, study]);
    } catch (error) {
      console.warn(`${name} was not answered`, error);
    }
  }

  /** The number of the study that is shown. */
  const shown = () => state("study")?.case ?? null;

  const underWay = new Map();

  /** The same for what comes faster than it is done: while one is under way, later ones are merged into one. */
  async function latest(name, args, merge = (_before, after) => after, study = shown()) {
    if (underWay.has(name)) {
      const waiting = underWay.get(name);
      const same = waiting?.study === study;  // what waits for a study that has gone is not wanted any more
      underWay.set(name, { args: same ? merge(waiting.args, args) : args, study });
      return;
    }
    underWay.set(name, null);
    await run(name, args, study);
    const waiting = underWay.get(name);
    underWay.delete(name);
    if (waiting) await latest(name, waiting.args, merge, waiting.study);
  }

  const scroll = (by) => latest("scroll", { by }, (a, b) => ({ by: a.by + b.by }));

  // ------------------------------------------------------------------------------------------- what only the page knows

  /** Change the page's own state (the key "ui"). The server never hears of it: it would send an old one back. */
  function ui(changes) {
    const all = window.trame?.state;
    if (!all) return undefined;
    const own = all.get("trame__client_only") ?? [];
    if (!own.includes("ui")) all.state.trame__client_only = [...own, "ui"];
    watch(all);
    return all.set("ui", { ...state("ui"), ...changes });
  }

  // What is typed, chosen or being edited belongs to one case, an answer to one region of it: it goes with them.
  let place = null;

  const here = () => ({ study: state("study")?.case ?? null, lesion: state("rationale")?.lesion ?? null });

  const answerTo = (step) => `answer ${here().study} ${here().lesion} ${step}`;

  /** From the first change on: before it there is nothing that could go. */
  function watch(all) {
    if (place) return;
    place = here();
    all.watch(["study", "rationale"], () => {
      const [before, now] = [place, here()];
      place = now;
      if (now.study !== before.study) ui({ draft: {}, editing: null });
      else if (now.lesion !== before.lesion) ui({ draft: withoutAnswers(), editing: null });
    });
  }

  const withoutAnswers = () =>
    Object.fromEntries(Object.entries(state("ui")?.draft ?? {}).filter(([key]) => !key.startsWith("answer ")));

  const isOpen = (own, part, otherwise) => own?.open?.[part] ?? otherwise;

  const fold = (part, open) => ui({ open: { ...state("ui")?.open, [part]: open } });

  // A field shows what is being typed until the server has answered; else any news would overwrite the typing.
  const draft = (own, key, otherwise) => own?.draft?.[key] ?? otherwise ?? "";

  function type(key, value, show = false) {
    const own = state("ui");
    if (!own) return;
    watch(window.trame.state);
    own.draft = { ...own.draft, [key]: value };
    if (show) ui({});
  }

  function forget(...keys) {
    const kept = Object.entries(state("ui")?.draft ?? {}).filter(([key]) => !keys.includes(key));
    return ui({ draft: Object.fromEntries(kept) });
  }

  /** Send what was typed, then show what the server made of it, unless more was typed in the meantime. */
  async function send(name, args, ...keys) {
    const before = { ...state("ui")?.draft };
    await run(name, args);
    await forget(...keys.filter((key) => before[key] === state("ui")?.draft?.[key]));
  }

  // ------------------------------------------------------------------------------------------------------------- words

  const words = (value) => (Array.isArray(value) ? value.join(", ") : (value ?? ""));

  const number = (value) => (typeof value === "number" ? value.toFixed(2) : (value ?? "-"));

  /** A number as a reader types it, comma or point; null for an empty field. */
  function parsed(text) {
    const plain = String(text ?? "").trim().replace(",", ".");
    return plain === "" ? null : Number(plain);
  }

  const gradient = (stops) =>
    `linear-gradient(to right, ${stops.map((x) => `${x.colour} ${100 * x.at}%`).join(", ")})`;

  // --------------------------------------------------------------------------------------------------------- rationale

  /** The steps that are to be seen, each with its place among its siblings. */
  function rows(steps, shut) {
    const out = [];
    const open = [];
    const roots = { count: 0 };
    let hidden = Infinity;
    (steps ?? []).forEach((step, k) => {
      open.length = step.depth;
      const level = open[step.depth - 1]?.children ?? roots;
      const row = { step, first: k === 0, parent: (steps[k + 1]?.depth ?? 0) > step.depth, children: { count: 0 } };
      row.shut = row.parent && Boolean(shut?.[step.id]);
      row.at = ++level.count;
      row.siblings = level;
      open.push(row);
      if (step.depth > hidden) return;
      hidden = row.shut ? step.depth : Infinity;
      out.push(row);
    });
    for (const row of out) row.of = row.siblings.count;
    return out;
  }

  function stepName(step) {
    const parts = [`${step.label}: ${step.answer}`];
    if (step.uncertain) parts.push("uncertain");
    if (step.probability != null) parts.push(`probability ${Math.round(100 * step.probability)} %`);
    else if (!step.overridden && step.asserted) parts.push(step.asserted);
    if (step.overridden) parts.push("by a reader");
    return parts.join(", ");
  }

  const choose = (step) => latest("choose_step", { step });

  const twist = (step) => ui({ shut: { ...state("ui")?.shut, [step]: !state("ui")?.shut?.[step] } });

  async function edit(step) {
    const before = state("ui")?.editing;
    await ui({ editing: step });
    await ui({ draft: withoutAnswers() });
    await window.Vue?.nextTick?.();
    if (step) document.querySelector(".editor input:checked, .editor input")?.focus();
    else if (before) focusOn(`[data-step="${CSS.escape(before)}"]`);
  }

  /** Give the answer that was chosen in the editor: never without its Apply button. */
  async function apply(step) {
    const key = answerTo(step.id);
    const given = state("ui")?.draft?.[key];
    const name = state("ui")?.draft?.reader;
    if (name && !state("review")?.reader) await send("reader", { name }, "reader");
    if (key !== answerTo(step.id)) return; // another region or study has come meanwhile
    if (step.kind === "size") await run("answer", { step: step.id, size_mm: parsed(given ?? step.size_mm) });
    else if (given != null) await run("answer", { step: step.id, index: given });
    await edit(null);
  }

  /** A command that is done under a name: without one, the field for it is opened. */
  async function asReader(name, args) {
    await run(name, args);
    if (state("review")?.reader) return;
    await fold("review", true);
    await window.Vue?.nextTick?.();
    focusOn("[data-reader]");
  }

  function shift(row) {
    const own = state("ui");
    const [x, y, z] = ["x", "y", "z"].map((axis) => parsed(draft(own, row.role + axis, row[axis])) ?? 0);
    return send("shift", { role: row.role, x, y, z }, `${row.role}x`, `${row.role}y`, `${row.role}z`);
  }

  // -------------------------------------------------------------------------------------------------------------- keys

  function focusOn(selector) {
    const found = document.querySelector(selector);
    found?.focus();
    return Boolean(found);
  }

  const toggle = (key) => run(key, { on: !state("views")?.[key] });

  const KEYS = {
    ArrowUp: () => scroll(1),
    ArrowDown: () => scroll(-1),
    PageUp: () => scroll(5),
    PageDown: () => scroll(-5),
    ArrowRight: () => run("next_concept", { by: 1 }),
    ArrowLeft: () => run("next_concept", { by: -1 }),
    n: () => run("next_lesion", { by: 1 }),
    p: () => run("next_lesion", { by: -1 }),
    j: () => run("next_concept", { by: 1 }),
    k: () => run("next_concept", { by: -1 }),
    e: () => toggle("evidence"),
    g: () => toggle("gland"),
    u: () => run("undo"),
    r: () => run("reset_views"),
    "?": () => ui({ help: true }),
  };

  const TYPED = "textarea, select, [contenteditable], input:not([type=checkbox], [type=radio], [type=range])";
  const OWN_ARROWS = "input[type=radio], input[type=range], [data-scrolls]";
  const MOVES = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "PageUp", "PageDown", "Home", "End"];

  /** What a key asks for, or null. */
  function meant(event) {
    const target = event.target instanceof Element ? event.target : document.body;
    if (event.altKey || event.metaKey || event.isComposing || target.closest(TYPED)) return null;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "Escape") return escape();
    if (document.querySelector("dialog[open]")) return null;
    if (event.ctrlKey) {
      if (key === "y" || (key === "z" && event.shiftKey)) return () => run("redo");
      return key === "z" ? () => run("undo") : null;
    }
    if (event.shiftKey && key !== "?") return null;
    if (MOVES.includes(key) && target.closest(OWN_ARROWS)) return null;
    const list = target.closest("[data-keys]");
    const walked = list && walk(list, target, key);
    if (walked) return walked;
    const digit = /^(?:Digit|Numpad)([1-5])$/.exec(event.code);
    if (digit) return () => run("layout", { n: Number(digit[1]) });
    return Object.hasOwn(KEYS, key) ? KEYS[key] : null;
  }

  /** Escape closes what is open, the nearest first. A dialog closes itself. */
  function escape() {
    if (document.querySelector("dialog[open]")) return null;
    const menu = document.querySelector("details.menu[open]");
    if (menu) return () => closeMenu(menu);
    if (state("ui")?.editing) return () => edit(null);
    if (state("views")?.mode === "explain_here") return () => run("explain_here");
    if (state("notice")?.kind) return () => run("dismiss");
    return null;
  }

  /** Within the tree or the table: arrows, Home, End, Enter and Space. Null where the key is not theirs. */
  function walk(list, target, key) {
    const tree = list.dataset.keys === "tree";
    const rowsOf = tree ? "[role=treeitem]" : "tbody tr";
    const row = target.closest(rowsOf);
    if (row !== target) return null;
    const all = [...list.querySelectorAll(rowsOf)];
    const at = all.indexOf(row);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[key];
    if (to !== undefined) return () => goTo(all[Math.min(Math.max(to, 0), all.length - 1)]);
    if (key === "Enter" || key === " ") return () => (tree ? editRow(row) : select(row));
    return tree && (key === "ArrowLeft" || key === "ArrowRight") ? () => sideways(all, row, key) : null;
  }

  function goTo(row) {
    row.focus();
    row.scrollIntoView({ block: "nearest" });
    select(row);
  }

  function select(row) {
    if (row.dataset.step) choose(row.dataset.step);
    else latest("select", { lesion: Number(row.dataset.row) });
  }

  async function editRow(row) {
    const id = row.dataset.step;
    const step = state("rationale")?.steps?.find((x) => x.id === id);
    await run("choose_step", { step: id });
    if (step && step.kind !== "computed" && state("review")?.editable) await edit(id);
  }

  /** Right opens or goes in, Left closes or goes out. */
  function sideways(all, row, key) {
    const expanded = row.getAttribute("aria-expanded");
    const level = (x) => Number(x.getAttribute("aria-level"));
    const at = all.indexOf(row);
    if (key === "ArrowRight") {
      if (expanded === "false") twist(row.dataset.step);
      else if (expanded === "true") goTo(all[at + 1]);
    } else if (expanded === "true") {
      twist(row.dataset.step);
    } else {
      const above = all.slice(0, at).reverse().find((x) => level(x) < level(row));
      if (above) goTo(above);
    }
  }

  function onKeyDown(event) {
    const act = meant(event);
    if (act) {
      event.preventDefault();
      act();
    }
    // The views send every key that they hear to the server, where some mean something else.
    if (act || event.target === document.body || event.target.closest?.(".view")) event.stopPropagation();
  }

  // Browsers ask in words of their own. On the page of a lost connection there is nothing left to keep.
  function onLeave(event) {
    if (!state("review")?.unsaved || document.querySelector(".lost")) return;
    event.preventDefault();
    event.returnValue = "unsaved"; // what older browsers want instead
    event.stopImmediatePropagation(); // trame's client would hang up before the reader has answered
  }

  const swallow = (event) => event.stopPropagation();

  window.addEventListener("keydown", onKeyDown, true);
  window.addEventListener("keypress", swallow, true);
  window.addEventListener("keyup", swallow, true);
  window.addEventListener("beforeunload", onLeave, true);

  // The row that has the focus is the one that Tab comes back to.
  document.addEventListener("focusin", (event) => {
    const row = event.target.closest?.("[data-keys] [role=treeitem], [data-keys] tbody tr");
    if (row !== event.target) return;
    for (const other of row.closest("[data-keys]").querySelectorAll("[role=treeitem], tbody tr")) {
      other.tabIndex = other === row ? 0 : -1;
    }
  });

  // ------------------------------------------------------------------------------------------------------------- mouse

  function closeMenu(menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }

  /** The slice view under the pointer while a place is being chosen, else null. */
  function aimedAt(event) {
    if (event.button !== 0 || state("views")?.mode !== "explain_here") return null;
    const view = event.target.closest?.(".view[data-view]");
    return view && view.dataset.view !== "MR_3D" ? view : null;
  }

  function onAim(event) {
    const view = aimedAt(event);
    if (!view) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.type !== "click") return;
    const box = view.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    const y = (event.clientY - box.top) / box.height;
    run("explain_at", { view: view.dataset.view, x, y });
  }

  // Before trame_rca hears of them: a click for a place is no drag of the window.
  for (const type of ["pointerdown", "pointerup", "mousedown", "mouseup", "click"]) {
    window.addEventListener(type, onAim, true);
  }

  document.addEventListener("click", (event) => {
    const lit = event.target.closest?.(".map [data-lesion]");
    if (lit) run("select", { lesion: Number(lit.dataset.lesion) });
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target) || event.target.closest(".menu-list button")) menu.open = false;
    }
  });

  // ------------------------------------------------------------------------------------------------------------ upload

  let sending = null;

  const say = (name, text, share = 0) => ui({ upload: { state: name, text, share } });

  const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;

  /** What an answer of the server says went wrong, or "" for nothing. */
  function refused(request) {
    let said = null;
    try {
      said = JSON.parse(request.responseText);
    } catch {
      // no JSON: something between the page and its tab answered
    }
    if (request.status === 200 && said?.ok) return "";
    if (said?.error) return String(said.error);
    if (request.status === 413) return "This is more than the server takes.";
    return `The server did not take it (${request.status || "no answer"}).`;
  }

  /** Send files; each is {file, path}. */
  function upload(files) {
    if (sending) return undefined;
    if (!state("chooser")?.uploads) return say("failed", "This server takes no uploads.");
    if (!files.length) return say("failed", "There are no files in it.");
    const size = files.reduce((sum, x) => sum + x.file.size, 0);
    const limit = state("chooser").limit_mb;
    if (limit && size > limit * 2 ** 20) {
      return say("failed", `${megabytes(size)} is more than the ${limit} MB that this server takes.`);
    }
    const what = files.length === 1 ? files[0].path : `${files.length} files`;
    const form = new FormData();
    for (const { file, path } of files) form.append("file", file, path);
    const request = new XMLHttpRequest();
    request.upload.onprogress = (event) => {
      const share = event.total ? event.loaded / event.total : 0;
      say("sending", share < 1 ? `Sending ${what}, ${megabytes(size)}` : `Reading ${what}`, share);
    };
    request.onloadend = () => {
      const stopped = sending !== request;
      sending = null;
      const wrong = refused(request);
      if (stopped) say("", "");
      else if (wrong) say("failed", wrong);
      else ui({ upload: { state: "", text: "", share: 0 }, open: { ...state("ui")?.open, study: null } });
    };
    request.open("POST", "upload");
    sending = request;
    say("sending", `Sending ${what}, ${megabytes(size)}`);
    request.send(form);
    return undefined;
  }

  function stopUpload() {
    const request = sending;
    sending = null;
    request?.abort();
  }

  /** Let the user choose files, or a folder. */
  function pick(folder) {
    const input = document.createElement("input");
    input.type = "file";
    input.multiple = true;
    input.webkitdirectory = folder;
    input.onchange = () => upload([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
    input.click();
  }

  /** All files of a dropped file or folder. */
  async function filesIn(entry) {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      return [{ file, path: entry.fullPath.replace(/^\//, "") }];
    }
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      // a reader gives a hundred at a time
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return found;
      for (const one of some) found.push(...(await filesIn(one)));
    }
  }

  async function dropped(transfer) {
    // asked at once: after the event the list is empty
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const plain = [...transfer.files].map((file) => ({ file, path: file.name }));
    await ui({ open: { ...state("ui")?.open, study: true } });
    try {
      await say("reading", "Looking at what was dropped");
      const files = entries.length ? (await Promise.all(entries.map(filesIn))).flat() : plain;
      await upload(files);
    } catch (error) {
      await say("failed", `It could not be read: ${error.message}`);
    }
  }

  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

  const showDrop = (on) => document.documentElement.classList.toggle("dropping", on);

  window.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = state("chooser")?.uploads ? "copy" : "none";
    showDrop(Boolean(state("chooser")?.uploads));
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) showDrop(false);
  });
  window.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    showDrop(false);
    dropped(event.dataTransfer);
  });

  // trame_rca draws a view as an image without a name
  new MutationObserver(() => {
    for (const image of document.querySelectorAll("[data-view] img:not([alt])"))
      image.alt = `${image.closest("[data-view]").getAttribute("aria-label")} view`;
  }).observe(document.documentElement, { childList: true, subtree: true });

  window.mr = Object.freeze({
    answerTo, apply, asReader, choose, draft, edit, fold, gradient, isOpen, latest, number, parsed, pick, rows, run, send, shift,
    stepName, stopUpload, twist, type, ui, words,
  });
})();
