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
  const typed = typedText();
  replace("list", found);
  for (const [name, value] of typed) fieldOf(name)?.setAttribute("value", value);
  marksOf(found);
  if (focused) document.querySelector(`[data-row="${CSS.escape(focused)}"] a.open`)?.focus();
}

/** What a person has typed into the forms of a list, by form and field. */
function typedText() {
  return [...document.querySelectorAll("[data-form] input:not([type=hidden])")].map((field) => [
    [field.form.dataset.form, field.name],
    field.value,
  ]);
}

function fieldOf([form, name]) {
  return document.querySelector(`[data-form="${CSS.escape(form)}"] [name="${CSS.escape(name)}"]`);
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

// Held calls

/** Counts down what expires; what has expired leaves the list with its next renewal. */
function countDown() {
  const all = document.querySelectorAll("[data-expires]");
  for (const one of all) {
    const left = Math.max(0, Math.round(Number(one.dataset.expires) - Date.now() / 1000));
    one.textContent = left ? `${Math.floor(left / 60)} min ${String(left % 60).padStart(2, "0")} s` : "expired";
  }
  if (document.querySelector(".held, [data-live]")) setTimeout(countDown, 1000);
}

// Tokens

async function openToken(token) {
  const address = token.closest("[data-tokens]").dataset.tokens;
  document.querySelector(".tokens .here")?.classList.remove("here");
  token.classList.add("here");
  if (!replace("drawer", await fetchDocument(`${address}/t/${token.dataset.t}`))) return;
  history.replaceState(null, "", `#t${token.dataset.t}`);
}

function stepToken(by) {
  const all = [...document.querySelectorAll("[data-t]")];
  const at = all.findIndex((one) => one.classList.contains("here"));
  const next = all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + by))];
  next?.scrollIntoView({ block: "nearest" });
  if (next) openToken(next).catch(() => {});
}

document.addEventListener("click", (event) => {
  const token = event.target.closest?.("[data-t]");
  if (token) openToken(token).catch(() => {});
  if (event.target.closest?.("#tokens .close")) {
    event.preventDefault();
    closeDrawer();
  }
});

function closeDrawer() {
  document.getElementById("drawer")?.replaceChildren();
  document.querySelector(".tokens .here")?.classList.remove("here");
  history.replaceState(null, "", location.pathname + location.search);
}

/** Opens the token that the address names: `#t145`. */
function openNamed() {
  const token = /^#t(\d+)$/.exec(location.hash);
  const found = token && document.querySelector(`[data-t="${token[1]}"]`);
  if (!found) return;
  found.scrollIntoView({ block: "center" });
  openToken(found).catch(() => {});
}

// Keys

const inStrip = () => document.activeElement?.closest(".strip") || document.querySelector(".tokens .here");

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  ArrowRight: () => inStrip() && stepToken(1),
  ArrowLeft: () => inStrip() && stepToken(-1),
  Escape: closeDrawer,
  "/": () => document.querySelector(".filters input")?.focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest?.("input, select, textarea");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  if (!KEYS[event.key]) return;
  if (event.key.length === 1) event.preventDefault();
  KEYS[event.key]();
});

document.addEventListener("formdata", (event) => {
  for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
});

/** Asks again until the store is verified. */
function watchTrust() {
  if (!document.querySelector(".trust.checking")) return;
  setTimeout(() => whenVisible(() => renewMarks().then(watchTrust).catch(() => {})), 1500);
}

document.documentElement.classList.add("js");
follow();
countDown();
openNamed();
addEventListener("hashchange", openNamed);
watchTrust();
search().catch(() => {});
