// Search by a record or by a part of one; each hit tells which paths make it near, and by how much.
import { choice, labelled, latest, make, short } from "/static/view.js";

export default function show(stage, ask, first, tell) {
  const hits = make("ol", { class: "hits" }), search = latest(async (question) => {
    tell("Searching …");
    const found = await ask(question);
    if (found) placed(found);
  });
  const field = make("input", { type: "text", autocomplete: "off", spellcheck: "false" });
  const form = make("form", { class: "controls", onsubmit: (event) => {
    event.preventDefault();
    const wanted = field.value.trim();
    if (wanted) search(/^[[{"]/.test(wanted) ? { like: wanted } : { at: wanted });
  } }, labelled("Or a part of one, as JSON, or PATH=VALUE", field), make("div", {}, make("button", { class: "small" }, "Search")));
  stage.append(
    make("div", { class: "controls" }, choice(`Like this one of ${first.records} records`, first.ids.map((id) => [id, id]), (id) => search({ id }))),
    form, hits);

  function placed(found) {
    hits.replaceChildren(...found.hits.map((hit, i) => make("li", {}, make("details", { open: i === 0 },
      make("summary", {}, `${hit.id} · cosine ${short(hit.cosine)}`), reasons(hit), ...record(hit)))));
  }
  function record(hit) {
    if (!hit.document) return [];
    return [make("details", {}, make("summary", {}, "The record"), make("pre", { tabindex: "0" }, hit.document))];
  }
  placed(first);
}

function reasons({ because, cosine, other_paths: other, crosstalk }) {
  if (typeof because === "string") return make("p", { class: "told" }, because);
  if (!because.length) return make("p", { class: "told" }, "The file of records is not at hand, so there is no reason to show.");
  const shares = because.some((one) => one.share !== undefined);
  const most = Math.max(...because.map((one) => Math.abs(one.share ?? 0)), 1e-9), rows = because.map((one) => {
    const part = make("span", { class: one.share < 0 ? "part against" : "part" });
    part.style.width = `${(100 * Math.abs(one.share ?? 0)) / most}%`;
    const adds = [make("td", { class: "figure" }, short(one.share ?? 0)), make("td", { class: "share" }, make("span", { class: "track" }, part))];
    const cells = [...(shares ? adds : []), make("th", { scope: "row" }, one.path), make("td", {}, one.query), make("td", {}, one.match === one.query ? "the same" : one.match)];
    return make("tr", {}, ...cells);
  });
  const head = [...(shares ? ["Adds", ""] : []), "Path", "Looked for", "This record"].map((text) => make("th", { scope: "col" }, text));
  const table = make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Reasons" },
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
  if (!shares) return table;
  return make("div", {}, table, make("p", { class: "told" },
    `Other paths add ${short(other)}, chance ${short(crosstalk)}; together ${short(cosine)}.`));
}
