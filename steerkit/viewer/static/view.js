// The viewer's one script: keys, live lists, and parts of pages that are fetched and put in place.
// Pages work without it. Markup comes from the server alone, parsed by the browser as a document that runs nothing.

/** The document at an address of this viewer. */
function fetchDocument(address) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", address);
    request.responseType = "document";
    request.onload = () => (request.response ? resolve(request.response) : reject(new Error(address)));
    request.onerror = () => reject(new Error(address));
    request.send();
  });
}

/** Puts the element of a fetched document with this id in the place of the one that is there. */
function replace(id, from) {
  const [old, found] = [document.getElementById(id), from.getElementById(id)];
  if (old && found) old.replaceWith(document.adoptNode(found));
  return found;
}

/** Does it once the page is in sight: what nobody looks at asks for nothing. */
function whenVisible(work) {
  if (!document.hidden) return work();
  document.addEventListener("visibilitychange", () => whenVisible(work), { once: true });
}

// Lists

const rows = () => [...document.querySelectorAll("[data-row]")];

function step(by) {
  const all = rows();
  const at = all.findIndex((row) => row.contains(document.activeElement));
  const next = all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + by))];
  next?.querySelector("a.open")?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

async function renew() {
  const focused = document.activeElement?.closest("[data-row]")?.dataset.row;
  const found = await fetchDocument(location.href);
  replace("list", found);
  marksOf(found);
  if (focused) document.querySelector(`[data-row="${CSS.escape(focused)}"] a.open`)?.focus();
}

async function renewMarks() {
  marksOf(await fetchDocument(location.href));
}

function marksOf(found) {
  for (const mark of [".trust", ".waiting"]) {
    const [old, now] = [document.querySelector(mark), found.querySelector(mark)];
    if (old && now) old.replaceWith(document.adoptNode(now));
  }
}

function follow() {
  const list = document.getElementById("list");
  if (!list?.dataset.live) return;
  const events = new EventSource(`${list.dataset.live}?after=${list.dataset.newest}`);
  let due = 0;
  events.addEventListener("grown", () => {
    clearTimeout(due);
    due = setTimeout(() => whenVisible(() => renew().catch(() => {})), 250);
  });
}

/** Looks further where a stretch of the store had nothing that fits, until something does. */
async function search() {
  for (;;) {
    const address = document.getElementById("list")?.dataset.search;
    if (!address) return;
    if (!replace("list", await fetchDocument(address))) return;
    history.replaceState(null, "", address);
  }
}

// Keys

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  "/": () => document.querySelector(".filters input")?.focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest?.("input, select, textarea");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

document.addEventListener("formdata", (event) => {
  for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
});

/** Asks again until the store is verified. */
function watchTrust() {
  if (!document.querySelector(".trust.checking")) return;
  setTimeout(() => whenVisible(() => renewMarks().then(watchTrust).catch(() => {})), 1500);
}

follow();
watchTrust();
search().catch(() => {});
