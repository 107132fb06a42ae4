"use strict";
// Draws what the JSON block "views" holds; see hyco_engine/report/views.py for its form. Loads nothing.
(() => {
  const data = document.getElementById("views");
  if (!data) return;
  const views = JSON.parse(data.textContent);
  const $ = (id) => document.getElementById(id);
  const slider = $("time"), play = $("play"), label = $("now"), rows = $("rows"), choice = $("view");

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const words = (text) => { const b = bytes(text); return new Uint16Array(b.buffer, b.byteOffset, b.length / 2); };
  const short = (x) => x === 0 ? "0" : String(Number(x.toPrecision(3)));

  // name -> an element; text is always set as text, never as HTML
  const make = (tag, attributes = {}, ...children) => {
    const svg = ["svg", "polyline", "line"].includes(tag);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const paint = (canvas, width, height, at, colors) => {
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    for (let y = 0, p = 0; y < height; y++) for (let x = 0; x < width; x++, p += 4) {
      const c = 3 * at(x, y);
      image.data[p] = colors[c]; image.data[p + 1] = colors[c + 1]; image.data[p + 2] = colors[c + 2]; image.data[p + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  };

  let view, update, timer = null;

  const legend = (scale, colors) => {
    const bar = make("canvas", { "aria-hidden": "true" });
    paint(bar, 255, 1, (x) => x + 1, colors);
    return make("div", { class: "legend" }, make("span", {}, short(scale.low)), bar, make("span", {}, `${short(scale.high)}, ${scale.of}`));
  };

  const field = (panel, shape) => {
    const canvas = make("canvas", { role: "img", "aria-label": `${panel.title}, ${view.label}` });
    const note = make("span");
    const picture = make("div", { class: "picture", style: `aspect-ratio: ${shape}` }, canvas);
    const figure = make("figure", { class: "field" }, make("figcaption", {}, panel.title, note), picture);
    return { panel, canvas, note, picture, figure, values: bytes(panel.values), colors: bytes(view.scales[panel.scale].colors) };
  };

  const tell = (fields, k) => {
    for (const f of fields) {
      const error = f.panel.nrmse ? f.panel.nrmse[k] : null;
      const parts = [error === null ? null : `nrmse ${short(error)}`, f.panel.note];
      f.note.textContent = parts.filter(Boolean).join(", ");
    }
  };

  // values above, errors below, each error under its model
  const grid = (fields, about) => {
    const values = fields.filter((f) => f.panel.scale === "value"), errors = fields.filter((f) => f.panel.scale === "error");
    const row = (cells, name) => rows.append(make("div", { class: "row", style: `--n: ${values.length}` }, ...cells,
      legend(view.scales[name], bytes(view.scales[name].colors))));
    row(values.map((f) => f.figure), "value");
    const text = make("div", { class: "about" }, about);
    if (errors.length) row([text, ...errors.map((f) => f.figure)], "error"); else rows.append(text);
  };

  const plane = () => {
    const [nx, ny] = view.cells, [x, y] = view.bounds;
    const shape = Math.min(3, Math.max(0.5, (x[1] - x[0]) / (y[1] - y[0])));
    const fields = view.panels.map((panel) => field(panel, shape));
    grid(fields, `${view.axes[0]} to the right, ${short(x[0])} to ${short(x[1])}; ` +
      `${view.axes[1]} upwards, ${short(y[0])} to ${short(y[1])}.`);
    return (k) => {
      for (const f of fields) paint(f.canvas, nx, ny, (i, j) => f.values[(k * ny + j) * nx + i], f.colors);
      tell(fields, k);
    };
  };

  const line = () => {
    const nx = view.cells[0], nt = view.times.length, [low, high] = view.bounds[0];
    const fields = view.panels.map((panel) => field(panel, 1.5));
    for (const f of fields) {
      paint(f.canvas, nt, nx, (i, j) => f.values[i * nx + nx - 1 - j], f.colors);
      f.cursor = make("div", { class: "now" });
      f.picture.append(f.cursor);
    }
    grid(fields, `Time to the right, 0 to ${short(view.times[nt - 1])}; ${view.axes[0]} upwards, ${short(low)} to ` +
      `${short(high)}. Below: ${view.label} along ${view.axes[0]} at the time chosen.`);
    const curves = fields.filter((f) => f.panel.curve).map((f) => ({ ...f, points: words(f.panel.curve) }));
    const svg = make("svg", { viewBox: "0 0 1000 300", preserveAspectRatio: "none", role: "img",
      "aria-label": `${view.label} along ${view.axes[0]}: ${curves.map((c) => c.panel.title).join(", ")}` });
    const scale = view.scales.value, pad = (scale.high - scale.low) / 4;
    const up = (value) => 300 * (1 - (value - scale.low + pad) / (scale.high - scale.low + 2 * pad));
    for (const value of [scale.low, (scale.low + scale.high) / 2, scale.high])
      svg.append(make("line", { x1: 0, x2: 1000, y1: up(value), y2: up(value) }));
    for (const c of curves) svg.append(c.line = make("polyline", { class: c.panel.key }));
    const keys = curves.map((c) => make("span", { class: c.panel.key }, make("i", { class: "swatch" }), c.panel.title));
    const range = `grid lines at ${[scale.high, (scale.low + scale.high) / 2, scale.low].map(short).join(", ")}`;
    rows.append(make("div", { class: "curves" }, make("div", { class: "keys" }, ...keys, make("span", { class: "soft" }, range)), svg,
      make("div", { class: "ends" }, make("span", {}, `${view.axes[0]} = ${short(low)}`), make("span", {}, `${view.axes[0]} = ${short(high)}`))));
    return (k) => {
      for (const f of fields) f.cursor.style.left = `${100 * (k + 0.5) / nt}%`;
      for (const c of curves) {
        const points = [];
        for (let i = 0; i < nx; i++) {
          const level = c.points[k * nx + i];
          if (level) points.push(`${(1000 * (i + 0.5) / nx).toFixed(1)},${(300 * (1 - (level - 1) / 65534)).toFixed(2)}`);
        }
        c.line.setAttribute("points", points.join(" "));
      }
      tell(fields, k);
    };
  };

  const show = () => {
    const k = Number(slider.value), text = `t = ${short(view.times[k])}`;
    label.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    update(k);
  };

  const choose = () => {
    view = views[choice ? Number(choice.value) : 0];
    rows.replaceChildren();
    slider.max = String(view.times.length - 1);
    update = view.dims === 1 ? line() : plane();
    show();
  };

  const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
  const start = () => {
    if (Number(slider.value) >= Number(slider.max)) slider.value = "0";
    play.textContent = "Pause";
    timer = setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      show();
      if (Number(slider.value) >= Number(slider.max)) stop();
    }, Math.max(60, 6000 / view.times.length));
  };

  slider.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => timer === null ? start() : stop());
  if (choice) choice.addEventListener("change", () => { stop(); choose(); });
  choose();
})();
