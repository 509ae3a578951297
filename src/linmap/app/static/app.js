// A run's page follows its run; forms take what is dropped; nothing else.
"use strict";

const job = document.getElementById("job");
if (job && job.dataset.over === "no") follow(job.dataset.id);

async function follow(id) {
  const log = document.getElementById("log"), bar = document.getElementById("progress");
  const began = Date.now();
  for (;;) {
    let now;
    try {
      now = await (await fetch(`/runs/${id}/state`)).json();
    } catch {
      document.querySelector(".state").textContent = "the app has gone";
      return;
    }
    if (now.over) return location.reload();
    document.querySelector(".state").textContent = now.state;
    document.querySelector(".state").className = `state ${now.state}`;
    document.getElementById("seconds").textContent = `${Math.round((Date.now() - began) / 1000)} s`;
    if (log.textContent !== now.log) {
      const atEnd = log.scrollTop + log.clientHeight > log.scrollHeight - 30;
      log.textContent = now.log;
      if (atEnd) log.scrollTop = log.scrollHeight;
    }
    bar.hidden = now.state !== "running";
    document.getElementById("queue").hidden = now.state !== "waiting";
    document.getElementById("ahead").textContent = now.ahead;
    if (now.progress) [bar.value, bar.max] = [now.progress[0], now.progress[1]];
    await new Promise((done) => setTimeout(done, 700));
  }
}

for (const box of document.querySelectorAll("input.folder"))
  box.addEventListener("change", () => {
    box.closest(".drop").querySelector("input[type=file]").webkitdirectory = box.checked;
  });

for (const form of document.querySelectorAll("form[enctype]"))
  form.addEventListener("formdata", (event) => {  // files of a folder keep their places in it
    const files = event.formData.getAll("data").filter((file) => file.webkitRelativePath);
    if (!files.length) return;
    event.formData.delete("data");
    for (const file of files) event.formData.append("data", file, file.webkitRelativePath);
  });

for (const drop of document.querySelectorAll(".drop")) {
  const set = (on) => () => drop.classList.toggle("over", on);
  drop.addEventListener("dragover", (event) => { event.preventDefault(); set(true)(); });
  drop.addEventListener("dragleave", set(false));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    set(false)();
    drop.querySelector("input[type=file]").files = event.dataTransfer.files;
  });
}

for (const code of document.querySelectorAll("pre > code")) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: "Copy" });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  code.parentElement.after(button);
}

for (const form of document.querySelectorAll("form.asks"))
  form.addEventListener("submit", (event) => {
    if (!confirm("Delete this run and its files?")) event.preventDefault();
  });
