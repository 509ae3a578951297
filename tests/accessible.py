"""An audit of a page in a browser: contrast, names, headings, focus.

`complaints(page)` opens what is folded and returns what a reader with weak eyes, a keyboard or a screen reader would
stumble over, one sentence each, in the sense of WCAG 2.2 AA: text has a contrast of 4.5 (3 if it is large), what can be
used and what is drawn has a name, levels of headings are not skipped, and what is focused looks different.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMED = {"button", "checkbox", "combobox", "Iframe", "link", "listbox", "radio", "searchbox", "slider",
         "spinbutton", "switch", "tab", "textbox"}  # fmt: skip
"""Roles that say nothing without a name, as Chromium writes them."""
STILL = """() => {
  const sheet = new CSSStyleSheet();  // which a policy of the page's own does not forbid
  sheet.replaceSync('*, ::before, ::after { transition: none !important; animation: none !important }');
  document.adoptedStyleSheets = [sheet];
  for (const one of document.querySelectorAll('details')) one.open = true;
}"""
CONTRAST = """() => {
  const brush = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const seen = new Map();
  function rgba(colour) {
    if (!seen.has(colour)) {
      brush.clearRect(0, 0, 1, 1);
      brush.fillStyle = 'transparent';  // which stays where the colour is none
      brush.fillStyle = colour;
      brush.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
      seen.set(colour, [r, g, b, a / 255]);
    }
    return seen.get(colour);
  }
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  function ground(element) {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const colour = rgba(getComputedStyle(one).backgroundColor);
      if (colour[3]) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((under, layer) => over(layer, under), rgba('Canvas'));
  }
  function behind(element, drawn) {
    if (!drawn) return ground(element);
    element.scrollIntoView({block: 'center', inline: 'center'});
    const {x, y, width, height} = element.getBoundingClientRect(), svg = element.closest('svg');
    const shape = document.elementsFromPoint(x + width / 2, y + height / 2)
      .find((one) => svg.contains(one) && (one instanceof SVGImageElement || one instanceof SVGGeometryElement
                                           && rgba(getComputedStyle(one).fill)[3] === 1));
    return shape instanceof SVGImageElement ? null : shape ? rgba(getComputedStyle(shape).fill) : ground(element);
  }
  function light([r, g, b]) {
    const part = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  }
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!text || element.closest('script, style, template, noscript, :disabled')) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;  // for screen readers
    const style = getComputedStyle(element), drawn = element instanceof SVGElement, under = behind(element, drawn);
    if (!under) continue;  // a photograph
    const colour = [...rgba(drawn ? style.fill : style.color)];
    for (let one = element; one; one = one.parentElement) colour[3] *= getComputedStyle(one).opacity;
    const [low, high] = [light(under), light(over(colour, under))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05), size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    if (contrast >= needed) continue;
    const what = `${element.tagName.toLowerCase()}.${element.getAttribute('class') ?? ''}`;
    const pair = `${colour.slice(0, 3)} on ${under.slice(0, 3).map(Math.round)}`;
    const told = `contrast ${contrast.toFixed(2)} of ${pair}: ${what}`;
    if (!found.has(told)) found.set(told, text.slice(0, 40));
  }
  return [...found].map(([told, text]) => `${told}: "${text}"`);
}"""
STRUCTURE = """() => {
  const found = [], levels = [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')]
    .filter((one) => one.checkVisibility()).map((one) => [Number(one.tagName[1]), one.textContent.trim()]);
  if (levels.filter(([level]) => level === 1).length !== 1) found.push('a page has one first heading');
  levels.forEach(([level, text], i) => {
    if (i && level > levels[i - 1][0] + 1) found.push(`a level is skipped before the heading "${text}"`);
  });
  if (!document.documentElement.lang) found.push('the language is not given');
  if (!document.title) found.push('there is no title');
  const counts = {};
  for (const one of document.querySelectorAll('[id]')) counts[one.id] = (counts[one.id] ?? 0) + 1;
  for (const [id, count] of Object.entries(counts)) if (count > 1) found.push(`${count} elements have the id ${id}`);
  for (const one of document.querySelectorAll('img:not([alt])')) found.push(`no alt: ${one.outerHTML.slice(0, 120)}`);
  for (const one of document.querySelectorAll('canvas, [role="img"]'))
    if (!one.ariaLabel && !one.getAttribute('aria-labelledby') && !one.closest('[aria-hidden="true"]'))
      found.push(`no name: ${one.cloneNode().outerHTML.slice(0, 120)}`);
  if (document.documentElement.scrollWidth > innerWidth)
    found.push(`${document.documentElement.scrollWidth} px wide in a window of ${innerWidth}`);
  return found;
}"""
FOCUS = """() => {
  const kinds = new Map();
  const what = 'a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"]';
  for (const one of document.querySelectorAll(what)) {
    if (one.disabled || !one.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const kind = `${one.tagName} ${one.type ?? ''} ${one.className.baseVal ?? one.className}`;
    if (!kinds.has(kind)) kinds.set(kind, one);
  }
  const found = [], were = document.activeElement, looks = (one) => {
    const parts = [];
    for (let on = one, n = 0; on && n < 3; on = on.parentElement, n++) {
      const style = getComputedStyle(on);
      parts.push(style.outlineStyle === 'none' ? '' : style.outline, style.boxShadow, style.border,
                 style.backgroundColor, style.color, style.textDecoration, style.left);
    }
    return parts.join();
  };
  for (const [kind, one] of kinds) {
    one.blur();
    const before = looks(one);
    one.focus({focusVisible: true, preventScroll: true});
    if (document.activeElement === one && looks(one) === before) found.push(`focus cannot be seen: ${kind}`);
    one.blur();
  }
  were?.focus?.();
  return found;
}"""


def complaints(page: Page) -> list[str]:
    """What is wrong with the page as it stands, at its width and in its colours; empty if nothing is."""
    page.evaluate(STILL)
    return [*page.evaluate(CONTRAST), *page.evaluate(STRUCTURE), *page.evaluate(FOCUS), *_nameless(page)]


def _nameless(page: Page) -> list[str]:
    """What can be used or is drawn, and has no name in the tree that screen readers are given."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        f"no name: {node['role']['value']}"
        for node in nodes
        if not node.get("ignored")
        and node.get("role", {}).get("value") in NAMED
        and not node.get("name", {}).get("value", "").strip()
    ]
