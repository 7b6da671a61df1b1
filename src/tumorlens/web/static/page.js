"use strict";
// Class and opacity change what is shown of the result; only a file or a slice asks the server.

const at = (id) => document.getElementById(id);
const { root, maxBytes } = document.body.dataset;
const [controls, slice, opacity, result] = ["controls", "slice", "opacity", "result"].map(at);
let file = null, token = "", picked = null; // picked: the class that the user chose
let running = false, next = null;

const network = (path, options) => fetch(root + path, { cache: "no-store", ...options });
const volume = () => `/volumes/${encodeURIComponent(token)}`;

async function forget() {
  const place = volume(), kept = token;
  token = "";
  if (kept) await network(place, { method: "DELETE", keepalive: true }).catch(() => {});
}

function fault(sentence) {
  at("fault").textContent = sentence;
  at("fault").hidden = !sentence;
  if (sentence) { result.replaceChildren(); controls.hidden = true; }
}

async function answer(number) {
  if (number && token) {
    const got = await network(`${volume()}/${number}`);
    if (got.status !== 410) return got;
  }
  return network(`/predict${number ? `?slice=${number}` : ""}`, { method: "POST", body: file });
}

// One request at a time; of those that came meanwhile, the latest.
async function ask(request) {
  next = request;
  if (running) return;
  running = true;
  document.body.classList.add("busy");
  while (next) {
    const now = next;
    next = null;
    try {
      const got = await now();
      const text = await got.text();
      if (next) continue;
      if (got.ok) show(text);
      else fault(got.status === 500 ? "The server failed; its terminal says why." : text);
    } catch {
      if (!next) fault("The server cannot be reached, or refused the file; is it still running?");
    }
  }
  running = false;
  document.body.classList.remove("busy");
}

function open(files) {
  if (!files.length) return;
  forget();
  picked = null;
  at("file").value = "";
  if (files.length > 1) return fault(`Drop one file at a time; these were ${files.length}.`);
  file = files[0];
  if (file.size > Number(maxBytes)) {
    return fault(`This file has more than the ${maxBytes / 1e6} MB that are accepted.`);
  }
  ask(() => answer(0));
}

function show(html) {
  fault("");
  result.innerHTML = html;
  const found = result.firstElementChild.dataset, many = found.slices > 1, first = controls.hidden;
  token = found.token;
  controls.hidden = false;
  at("slices").hidden = at("leaf").hidden = !many;
  slice.max = found.slices;
  if (!next) slice.value = found.number;
  at("position").textContent = `${found.number} of ${found.slices}`;
  controls.elements.class.value = picked ?? found.best;
  choose();
  if (first && result.getBoundingClientRect().top > innerHeight / 2) controls.scrollIntoView();
}

function choose() {
  const chosen = controls.elements.class.value;
  for (const each of result.querySelectorAll(".map, .scale")) {
    each.hidden = each.dataset.class !== chosen;
  }
  for (const row of result.querySelectorAll("tr")) {
    row.classList.toggle("chosen", row.dataset.class === chosen);
  }
}

function fade() {
  document.documentElement.style.setProperty("--opacity", opacity.value);
  at("percent").textContent = `${Math.round(100 * opacity.value)}%`;
}

at("file").addEventListener("change", (event) => open([...event.target.files]));
at("remove").addEventListener("click", () => { forget(); file = null; fault(""); result.replaceChildren(); controls.hidden = true; });
slice.addEventListener("input", () => ask(() => answer(slice.value)));
opacity.addEventListener("input", fade);
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("change", (event) => {
  if (event.target.name === "class") { picked = event.target.value; choose(); }
});
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", async () => {
    try {
      const got = await network(`/static/examples/${encodeURIComponent(button.dataset.example)}.png`);
      open([await got.blob()]);
    } catch { fault("The server cannot be reached; is it still running?"); }
  });
}
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  open([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => open([...event.clipboardData.files]));
addEventListener("pagehide", forget);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "o") return at("file").click();
  if (controls.hidden) return;
  const step = { ArrowLeft: [slice, -1], ArrowRight: [slice, 1], "-": [opacity, -1], "+": [opacity, 1] }[event.key];
  if (step && event.target.tagName !== "INPUT") {
    const before = step[0].value;
    step[0].stepUp(step[1]);
    if (step[0].value !== before) step[0].dispatchEvent(new Event("input"));
  }
  const radio = controls.querySelector(`[name=class][value="${event.key - 1}"]`);
  if (radio) radio.click();
});
fade();
