"use strict";
const at = (id) => document.getElementById(id);
let task = "classification";
let asked = 0; // the image that was given last: answers to earlier ones are dropped

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text; // names of classes are text, whatever they hold
  return made;
}

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", wrong);
}

// classes with probabilities, classes with shares of the pixels, or objects with scores
function showAnswer(found) {
  const rows = found.objects ?? found.classes;
  const colours = Object.assign({}, ...(found.pictures ?? []).map((picture) => picture.colours));
  at("answer").replaceChildren(...rows.slice(0, 30).map((row) => {
    const value = row.probability ?? row.share ?? row.score;
    const item = element("li"), line = element("span"), bar = element("progress");
    line.append(element("b", row.name), element("em", `${(100 * value).toFixed(1)} %`));
    bar.max = 1;
    bar.value = value;
    if (colours[row.name]) item.style.setProperty("--accent", colours[row.name]); // as in the picture
    else if (Object.keys(colours).length) item.style.setProperty("--accent", "var(--grey)");
    item.append(line, bar);
    return item;
  }));
}

function showPictures(found) {
  at("pictures").replaceChildren(...found.map((picture) => {
    const figure = element("figure"), caption = element("figcaption", picture.title), image = element("img");
    caption.append(element("small", picture.remark));
    image.src = picture.src;
    image.alt = picture.title;
    figure.append(caption, image);
    return figure;
  }));
}

async function ask(file, pictures) {
  const reply = await fetch(`predict?pictures=${pictures}`, {
    method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
  });
  const text = await reply.text();
  let found;
  try { found = JSON.parse(text); } catch { found = { error: text }; }
  if (!reply.ok) throw new Error(found.error || `the server answered ${reply.status}`);
  return found;
}

async function take(file) {
  if (!file) return;
  const mine = ++asked;
  URL.revokeObjectURL(at("preview").src);
  at("preview").src = URL.createObjectURL(file);
  at("preview").hidden = false;
  at("hint").hidden = true;
  at("name").textContent = file.name;
  at("answer").replaceChildren();
  at("pictures").replaceChildren();
  say(task === "classification" ? "Looking ..." : "Looking ... (the first image of a size takes longest)");
  const started = performance.now();
  try {
    // a classifier's classes are there before its attention is drawn
    for (const pictures of task === "classification" ? [0, 1] : [1]) {
      const found = await ask(file, pictures);
      if (mine !== asked) return;
      showAnswer(found);
      showPictures(found.pictures ?? []);
      if (!pictures || task !== "classification") {
        const rows = found.objects ?? found.classes;
        say(`${rows.length ? "" : "Nothing found. "}${found.size.join(" x ")} px, ${((performance.now() - started) / 1000).toFixed(2)} s`);
      }
    }
  } catch (error) {
    if (mine === asked) say(error.message, true);
  }
}

at("preview").addEventListener("error", () => { at("preview").hidden = true; at("hint").hidden = false; });
at("file").addEventListener("change", () => { take(at("file").files[0]); at("file").value = ""; });
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // or the browser would leave the page for the image
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));

at("command").textContent = `curl --data-binary @image.jpg ${location.origin}/predict`;
fetch("about").then((reply) => reply.json()).then((about) => {
  task = about.task;
  at("about").textContent = `${about.model} (${about.file}), ${about.task}, ${about.classes} classes`;
});
