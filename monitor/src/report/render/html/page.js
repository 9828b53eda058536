// The moving parts of the report: the filter of findings, the timeline and the graph of lock orders. Nothing is loaded; names are
// put into the page as text only.
"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const names = JSON.parse(by("names").textContent);

  // ---- Findings -------------------------------------------------------------------------------------------------------------

  const findings = [...document.querySelectorAll(".finding")];
  const visible = () => findings.filter((finding) => !finding.hidden);

  function filter() {
    const words = by("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const levels = new Set([...document.querySelectorAll(".level:checked")].map((box) => box.value));
    for (const finding of findings) {
      finding.text ??= finding.textContent.toLowerCase();
      finding.hidden = !levels.has(finding.dataset.level) || !words.every((word) => finding.text.includes(word));
    }
    const count = visible().length;
    const all = `${findings.length} finding${findings.length === 1 ? "" : "s"}`;
    by("shown").textContent = count === findings.length ? all : `${count} of ${all}`;
  }

  function show(finding) {
    finding.hidden = false;
    finding.open = true;
    finding.scrollIntoView({ block: "start" });
    finding.querySelector("summary").focus({ preventScroll: true });
  }

  function step(by) {
    const list = visible();
    const at = list.indexOf(document.activeElement?.closest?.(".finding"));
    const next = list[at < 0 ? (by > 0 ? 0 : list.length - 1) : at + by];
    if (next) show(next);
  }

  if (findings.length) {
    by("filter").addEventListener("input", filter);
    document.querySelectorAll("input.level").forEach((box) => box.addEventListener("change", filter));
    by("unfold").addEventListener("click", () => visible().forEach((finding) => (finding.open = true)));
    by("fold").addEventListener("click", () => visible().forEach((finding) => (finding.open = false)));
  }
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.target.id === "chart";
    if (event.ctrlKey || event.altKey || event.metaKey || typing || !findings.length) return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "/") by("filter").focus();
    else return;
    event.preventDefault();
  });

  // ---- Tables that can be sorted -----------------------------------------------------------------------------------------------

  for (const table of document.querySelectorAll(".sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => (row.cells[column].dataset.n === undefined ? row.cells[column].textContent : +row.cells[column].dataset.n);
        const rows = [...body.rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
        body.replaceChildren(...(down ? rows.reverse() : rows));
      });
    });
  }

  if (!names) return;

  // ---- The holds ------------------------------------------------------------------------------------------------------------------

  const count = names.count;
  const end = Math.max(names.end, 1);
  const asked = new Float64Array(count), from = new Float64Array(count), to = new Float64Array(count);
  const cpus = new Uint16Array(count), locks = new Uint32Array(count), places = new Uint32Array(count);
  const unfinished = new Set();

  function decode() {
    const text = atob(by("holds").textContent);
    let at = 0, before = 0;
    const number = () => {
      let value = 0, scale = 1, byte;
      do {
        byte = text.charCodeAt(at++);
        value += (byte & 127) * scale;
        scale *= 128;
      } while (byte > 127);
      return value;
    };
    for (let i = 0; i < count; i++) {
      before = asked[i] = before + number();
      from[i] = asked[i] + number();
      const held = number();
      if (!held) unfinished.add(i);
      to[i] = held ? from[i] + held - 1 : Math.max(end, from[i]);
      cpus[i] = number();
      locks[i] = number();
      places[i] = number();
    }
  }

  const units = names.clock === "ns" ? [[1e9, "s"], [1e6, "ms"], [1e3, "\u00b5s"], [1, "ns"]] : [[1, ""]];
  function time(value) {
    const [scale, unit] = units.find(([scale]) => value >= scale) ?? units[units.length - 1];
    const digits = scale === 1 ? 0 : 3;
    return `${+(value / scale).toFixed(digits)}${unit && " " + unit}`;
  }

  // A row of the chart: holds that do not overlap, by time, and ever coarser lists of them. An entry of the list of level n stands
  // for 2^n holds: from, to, how much of that is held, whether one waited.
  class Row {
    constructor(title, list) {
      this.title = title;
      this.list = list;
      this.levels = [];
    }

    level(number) {
      if (number === 0) return null;
      const known = this.levels[number];
      if (known) return known;
      const below = this.level(number - 1);
      const size = Math.ceil((below ? below.from.length : this.list.length) / 2);
      const made = { from: new Float64Array(size), to: new Float64Array(size), held: new Float64Array(size), waits: new Uint8Array(size) };
      for (let i = 0; i < size; i++) {
        let last = -Infinity;
        for (const child of [2 * i, 2 * i + 1]) {
          if (below) {
            if (child >= below.from.length) break;
            last = Math.max(last, below.to[child]);
            if (child % 2 === 0) made.from[i] = below.from[child];
            made.held[i] += below.held[child];
            made.waits[i] |= below.waits[child];
          } else {
            if (child >= this.list.length) break;
            const hold = this.list[child];
            last = Math.max(last, to[hold]);
            if (child % 2 === 0) made.from[i] = asked[hold];
            made.held[i] += to[hold] - from[hold];
            made.waits[i] |= from[hold] > asked[hold] ? 1 : 0;
          }
        }
        made.to[i] = last;
      }
      return (this.levels[number] = made);
    }

    // The holds that may be seen in a window: the first, and the one after the last.
    range(start, stop) {
      const search = (value, key) => {
        let low = 0, high = this.list.length;
        while (low < high) {
          const middle = (low + high) >> 1;
          if (key[this.list[middle]] < value) low = middle + 1;
          else high = middle;
        }
        return low;
      };
      return [search(start, to), search(stop, asked)];
    }

    at(when) {
      const [first, after] = this.range(when, when + 1e-9);
      for (let i = first; i < Math.max(after, first + 1) && i < this.list.length; i++) {
        const hold = this.list[i];
        if (asked[hold] <= when && when <= to[hold]) return hold;
      }
      return -1;
    }
  }

  // Holds of each key, in lanes in which none overlaps another.
  function rows(key, title, limit) {
    const lanes = new Map();
    for (let i = 0; i < count; i++) {
      const id = key[i];
      let all = lanes.get(id);
      if (!all) lanes.set(id, (all = []));
      let lane = all.find((lane) => lane.end <= asked[i]);
      if (!lane) {
        if (all.length < 16) all.push((lane = { end: 0, list: [] }));
        else lane = all[15];
      }
      lane.list.push(i);
      lane.end = Math.max(lane.end, to[i]);
    }
    const ids = [...lanes.keys()];
    if (limit) {
      const weight = (id) => lanes.get(id).reduce((sum, lane) => sum + lane.list.length, 0);
      const weights = new Map(ids.map((id) => [id, weight(id)]));
      ids.sort((a, b) => weights.get(b) - weights.get(a));
    } else {
      ids.sort((a, b) => a - b);
    }
    return ids.slice(0, limit || ids.length).flatMap((id) =>
      lanes.get(id).map((lane, depth) => new Row(depth ? "" : title(id), Uint32Array.from(lane.list))));
  }

  // ---- The chart ------------------------------------------------------------------------------------------------------------------

  const HEIGHT = 20, TOP = 34, LEFT = 250, MOST_ROWS = 500;
  const canvas = by("chart");
  const paint = canvas?.getContext("2d");
  const view = { start: 0, stop: end, top: 0, rows: [], pointer: null, mark: -1 };
  const colours = {};
  const made = {};

  function colour(number, dark) {
    // Neighbouring numbers are far apart on the wheel.
    return `hsl(${(number * 137.5) % 360} ${dark ? "60% 62%" : "62% 42%"})`;
  }

  function lockTitle(id) {
    const [identity, number] = names.locks[id] ?? [`lock ${id}`, -1];
    const name = names.classes[number] ?? "lock", tail = identity.slice(-6);
    return `${name.length > 31 ? `${name.slice(0, 30)}\u2026` : name} ${tail}`;
  }

  function prepare(kind) {
    if (made[kind]) return;
    made[kind] = kind === "cpu" ? rows(cpus, (id) => `vCPU ${id}`, 0) : rows(locks, lockTitle, MOST_ROWS);
    for (const row of made[kind]) row.level(Math.max(0, Math.ceil(Math.log2(row.list.length / 256))));
  }

  function choose(kind) {
    prepare(kind);
    view.rows = made[kind];
    view.kind = kind;
    view.top = 0;
    draw();
  }

  function colourOf(hold) {
    const number = view.kind === "cpu" ? names.locks[locks[hold]]?.[1] ?? 0 : cpus[hold];
    return (colours.wheel[number % 64] ??= colour(number % 64, colours.dark));
  }

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["back", "front", "soft", "line", "panel", "wait", "mark"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
    colours.dark = matchMedia("(prefers-color-scheme: dark)").matches;
    colours.wheel = [];
  }

  function draw() {
    if (!canvas) return;
    const began = performance.now();
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.fillStyle = colours.back;
    paint.fillRect(0, 0, width, height);
    paint.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    paint.textBaseline = "middle";
    const scale = (width - LEFT) / (view.stop - view.start);
    const x = (value) => LEFT + (value - view.start) * scale;
    drawAxis(width, height, x);
    const most = Math.ceil((height - TOP) / HEIGHT);
    view.rows.slice(view.top, view.top + most).forEach((row, index) => drawRow(row, TOP + index * HEIGHT, width, x));
    drawMarks(height, x);
    by("range").textContent = `${time(view.start)} to ${time(view.stop)}`;
    canvas.dataset.drawn = (performance.now() - began).toFixed(1);
  }

  function drawAxis(width, height, x) {
    const span = view.stop - view.start;
    let tick = 10 ** Math.floor(Math.log10(span / 4));
    for (const more of [5, 2]) if (span / (tick * more) >= 4) { tick *= more; break; }
    if (names.clock !== "ns") tick = Math.max(1, tick);
    paint.fillStyle = colours.soft;
    paint.strokeStyle = colours.line;
    paint.beginPath();
    for (let at = Math.ceil(view.start / tick) * tick; at <= view.stop; at += tick) {
      paint.moveTo(Math.round(x(at)) + 0.5, TOP - 8);
      paint.lineTo(Math.round(x(at)) + 0.5, height);
      paint.fillText(time(at), x(at) + 4, 10);
    }
    paint.stroke();
  }

  function drawRow(row, y, width, x) {
    paint.fillStyle = colours.front;
    paint.save();
    paint.beginPath();
    paint.rect(0, y, LEFT - 6, HEIGHT);
    paint.clip();
    paint.fillText(row.title, 6, y + HEIGHT / 2);
    paint.restore();
    const [first, after] = row.range(view.start, view.stop);
    let level = 0;
    while ((after - first) >> level > (width - LEFT) / 2) level++;
    const coarse = row.level(level);
    paint.save();
    paint.beginPath();
    paint.rect(LEFT, y, width - LEFT, HEIGHT);
    paint.clip();
    for (let i = first >> level; i << level < after; i++) {
      if (coarse) {
        const left = x(coarse.from[i]), right = Math.max(x(coarse.to[i]), left + 1);
        paint.globalAlpha = Math.max(0.25, Math.min(1, coarse.held[i] / Math.max(1, coarse.to[i] - coarse.from[i])));
        paint.fillStyle = colourOf(row.list[i << level]);
        paint.fillRect(left, y + 3, right - left, HEIGHT - 6);
        if (coarse.waits[i]) {
          paint.globalAlpha = 1;
          paint.fillStyle = colours.wait;
          paint.fillRect(left, y + HEIGHT - 4, Math.max(1, right - left), 2);
        }
      } else {
        drawHold(row.list[i], y, x);
      }
    }
    paint.restore();
    paint.globalAlpha = 1;
  }

  function drawHold(hold, y, x) {
    const begin = x(asked[hold]), had = x(from[hold]), stop = Math.max(x(to[hold]), had + 1);
    paint.globalAlpha = 1;
    if (had > begin) {
      paint.fillStyle = colours.wait;
      paint.fillRect(begin, y + HEIGHT / 2 - 2, had - begin, 4);
    }
    paint.fillStyle = colourOf(hold);
    paint.fillRect(had, y + 3, stop - had, HEIGHT - 6);
    if (unfinished.has(hold)) {
      paint.fillStyle = colours.mark;
      paint.fillRect(stop - 3, y + 1, 3, HEIGHT - 2);
    }
    const room = Math.min(stop, canvas.clientWidth) - Math.max(had, LEFT);
    if (room > 60) {
      paint.save();
      paint.beginPath();
      paint.rect(Math.max(had, LEFT) + 3, y, room - 6, HEIGHT);
      paint.clip();
      paint.fillStyle = colours.dark ? "#101418" : "#ffffff";
      const text = view.kind === "cpu" ? names.classes[names.locks[locks[hold]]?.[1]] ?? "" : `vCPU ${cpus[hold]}, ${names.places[places[hold]] ?? ""}`;
      paint.fillText(text, Math.max(had, LEFT) + 5, y + HEIGHT / 2);
      paint.restore();
    }
  }

  function drawMarks(height, x) {
    paint.fillStyle = paint.strokeStyle = colours.mark;
    let last = -Infinity;
    names.marks.forEach(([at], index) => {
      const place = x(at);
      if (place < LEFT || place > canvas.clientWidth || (place - last < 1 && index !== view.mark)) return;
      last = place;
      const size = index === view.mark ? 8 : 5;
      paint.beginPath();
      paint.moveTo(place - size, TOP - 14);
      paint.lineTo(place + size, TOP - 14);
      paint.lineTo(place, TOP - 14 + 2 * size);
      paint.fill();
      paint.beginPath();
      paint.moveTo(Math.round(place) + 0.5, TOP - 4);
      paint.lineTo(Math.round(place) + 0.5, index === view.mark ? height : TOP);
      paint.stroke();
    });
  }

  // ---- Moving in the chart ---------------------------------------------------------------------------------------------------------

  let asked_for_a_frame = false;
  function later() {
    if (asked_for_a_frame) return;
    asked_for_a_frame = true;
    requestAnimationFrame(() => {
      asked_for_a_frame = false;
      draw();
    });
  }

  function window_(start, stop) {
    const least = names.clock === "ns" ? 50 : 8;
    const span = Math.min(end, Math.max(least, stop - start));
    const middle = (start + stop) / 2;
    view.start = Math.max(0, Math.min(end - span, middle - span / 2));
    view.stop = view.start + span;
    later();
  }

  function zoom(factor, around = (view.start + view.stop) / 2) {
    window_(around - (around - view.start) * factor, around + (view.stop - around) * factor);
  }

  function move(share) {
    const span = view.stop - view.start;
    const start = Math.max(0, Math.min(end - span, view.start + share * span));
    window_(start, start + span);
  }

  function scroll(rows) {
    const shown = Math.floor((canvas.clientHeight - TOP) / HEIGHT);
    view.top = Math.max(0, Math.min(view.rows.length - shown, view.top + rows));
    later();
  }

  function tell(hold) {
    by("told").textContent = hold < 0 ? "\u00a0" : [
      names.locks[locks[hold]]?.[0],
      names.classes[names.locks[locks[hold]]?.[1]],
      `taken at ${names.places[places[hold]]}`,
      `vCPU ${cpus[hold]}`,
      from[hold] > asked[hold] ? `waited ${time(from[hold] - asked[hold])}` : "",
      unfinished.has(hold) ? "not released" : `held ${time(to[hold] - from[hold]) || "0"}`,
      `from ${time(from[hold])}`,
    ].filter(Boolean).join(", ");
  }

  function mark(index) {
    if (!names.marks.length) return;
    view.mark = (index + names.marks.length) % names.marks.length;
    const [at, cpu, event, finding] = names.marks[view.mark];
    const span = Math.min(view.stop - view.start, Math.max(end / 50, names.clock === "ns" ? 1000 : 40));
    window_(at - span / 2, at + span / 2);
    const title = findings[finding]?.querySelector("summary")?.textContent.replace(/\s+/g, " ").trim() ?? "";
    by("told").textContent = `event ${event}, vCPU ${cpu}: ${title}`;
  }

  function listen() {
    const when = (event) => view.start + ((event.offsetX - LEFT) / (canvas.clientWidth - LEFT)) * (view.stop - view.start);
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      if (event.shiftKey) scroll(Math.sign(event.deltaY) * 3);
      else zoom(event.deltaY > 0 ? 1.25 : 0.8, when(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      view.pointer = { x: event.offsetX, y: event.offsetY, start: view.start, stop: view.stop, top: view.top };
    });
    canvas.addEventListener("pointermove", (event) => {
      const held = view.pointer;
      if (held) {
        const by = ((held.x - event.offsetX) / (canvas.clientWidth - LEFT)) * (held.stop - held.start);
        const span = held.stop - held.start, start = Math.max(0, Math.min(end - span, held.start + by));
        window_(start, start + span);
        const rows = Math.round((held.y - event.offsetY) / HEIGHT);
        scroll(held.top + rows - view.top);
        return;
      }
      const row = view.rows[view.top + Math.floor((event.offsetY - TOP) / HEIGHT)];
      tell(row && event.offsetX >= LEFT && event.offsetY >= TOP ? row.at(when(event)) : -1);
    });
    canvas.addEventListener("pointerup", (event) => {
      const held = view.pointer;
      view.pointer = null;
      if (!held || Math.abs(held.x - event.offsetX) > 3 || event.offsetY > TOP) return;
      const scale = (canvas.clientWidth - LEFT) / (view.stop - view.start);
      const hit = names.marks.findIndex(([at]) => Math.abs(LEFT + (at - view.start) * scale - event.offsetX) < 7);
      if (hit >= 0 && findings[names.marks[hit][3]]) show(findings[names.marks[hit][3]]);
    });
    canvas.addEventListener("keydown", (event) => {
      const acts = {
        "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), "0": () => window_(0, end),
        ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), ArrowUp: () => scroll(-1), ArrowDown: () => scroll(1),
        PageUp: () => scroll(-10), PageDown: () => scroll(10), Home: () => move(-Infinity), End: () => move(1e9),
        n: () => mark(view.mark + 1), p: () => mark(view.mark < 0 ? -1 : view.mark - 1),
        Enter: () => view.mark >= 0 && show(findings[names.marks[view.mark][3]]),
      };
      const act = acts[event.key];
      if (!act || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      act();
    });
    by("rows").addEventListener("change", (event) => choose(event.target.value));
    by("zoom-in").addEventListener("click", () => zoom(0.5));
    by("zoom-out").addEventListener("click", () => zoom(2));
    by("zoom-all").addEventListener("click", () => window_(0, end));
    addEventListener("resize", later);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      readColours();
      later();
    });
    for (const button of document.querySelectorAll(".show")) {
      const index = names.marks.findIndex(([, , event]) => event === +button.dataset.event);
      button.hidden = index < 0;
      button.addEventListener("click", () => {
        mark(index);
        by("timeline").scrollIntoView();
        canvas.focus({ preventScroll: true });
      });
    }
  }

  // ---- The graph of lock orders -----------------------------------------------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg", WIDE = 230, TALL = 32, ACROSS = 330, DOWN = 52, MOST_EDGES = 300;
  function element(name, attributes, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // Which classes can be reached from each one, over the edges: in a circle are those that reach each other.
  function circles(nodes, out) {
    const reach = new Map(nodes.map((node) => {
      const seen = new Set(), todo = [node];
      while (todo.length) for (const next of out.get(todo.pop()) ?? []) if (!seen.has(next)) { seen.add(next); todo.push(next); }
      return [node, seen];
    }));
    return (a, b) => reach.get(a).has(b) && reach.get(b).has(a);
  }

  function graph() {
    const place = by("graph");
    if (!place) return;
    const edges = [...names.order].sort((a, b) => b[2] - a[2]).slice(0, MOST_EDGES);
    const nodes = [...new Set(edges.flatMap(([held, taken]) => [held, taken]))];
    const out = new Map(nodes.map((node) => [node, []]));
    for (const [held, taken] of edges) out.get(held).push(taken);
    const together = circles(nodes, out);
    // The column is the longest way to a class, not counting arrows inside of a circle.
    const column = new Map(nodes.map((node) => [node, 0]));
    for (let round = 0; round < nodes.length; round++) {
      let changed = false;
      for (const [held, taken] of edges) {
        if (held === taken || together(held, taken) || column.get(taken) > column.get(held)) continue;
        column.set(taken, column.get(held) + 1);
        changed = true;
      }
      if (!changed) break;
    }
    const filled = [], at = new Map();
    for (const node of nodes) {
      const number = column.get(node);
      filled[number] = (filled[number] ?? 0) + 1;
      at.set(node, [20 + number * ACROSS, 30 + (filled[number] - 1) * DOWN]);
    }
    const size = [60 + (filled.length - 1) * ACROSS + WIDE, 60 + Math.max(...filled.map((n) => n ?? 0)) * DOWN];
    const svg = element("svg", { width: size[0], height: size[1], role: "img", "aria-label": "Which lock was taken while which was held" });
    for (const kind of ["", "circle"]) {
      svg.append(element("marker", { id: `head${kind}`, class: kind, viewBox: "0 0 8 8", refX: 8, refY: 4, markerWidth: 8, markerHeight: 8, orient: "auto" },
        element("path", { d: "M0 0 8 4 0 8Z" })));
    }
    const spread = new Map();
    for (const [held, taken, times, event] of edges) {
      const [x1, y1] = at.get(held), [x2, y2] = at.get(taken);
      const circle = together(held, taken) ? "circle" : "";
      const middle = TALL / 2, turn = (spread.get(held) ?? 0) % 5;
      spread.set(held, turn + 1);
      let d;
      if (x2 > x1) d = `M${x1 + WIDE} ${y1 + middle}C${x1 + WIDE + 50} ${y1 + middle} ${x2 - 50} ${y2 + middle} ${x2} ${y2 + middle}`;
      else if (x2 < x1) d = `M${x1} ${y1 + middle + 4}C${x1 - 50} ${y1 + middle + 4} ${x2 + WIDE + 50} ${y2 + middle + 4} ${x2 + WIDE} ${y2 + middle + 4}`;
      else if (held === taken) d = `M${x1 + WIDE - 30} ${y1}C${x1 + WIDE - 20} ${y1 - 26} ${x1 + WIDE + 40} ${y1 - 10} ${x1 + WIDE} ${y1 + middle}`;
      else {
        const bow = 40 + turn * 8 + Math.abs(y2 - y1) / 4;
        d = `M${x1 + WIDE} ${y1 + middle + 4}C${x1 + WIDE + bow} ${y1 + middle} ${x2 + WIDE + bow} ${y2 + middle} ${x2 + WIDE} ${y2 + middle - 4}`;
      }
      const title = `${names.classes[held]}, then ${names.classes[taken]}: ${times} times, first at event ${event}`;
      svg.append(element("path", { d, class: circle, "marker-end": `url(#head${circle})` }, element("title", {}, title)));
    }
    for (const node of nodes) {
      const [x, y] = at.get(node), name = names.classes[node] ?? "other locks";
      const short = name.length > 34 ? `${name.slice(0, 33)}\u2026` : name;
      const circle = nodes.some((other) => other !== node && together(node, other)) || together(node, node) ? "circle" : "";
      svg.append(element("g", { class: circle }, element("rect", { x, y, width: WIDE, height: TALL, rx: 5 }),
        element("text", { x: x + 8, y: y + TALL / 2 + 4 }, short), element("title", {}, name)));
    }
    place.append(svg);
  }

  decode();
  graph();
  if (canvas) {
    readColours();
    listen();
    choose("cpu");
    // So that the other rows are there when they are asked for.
    setTimeout(() => {
      prepare("lock");
      canvas.dataset.ready = "yes";
    }, 50);
  }
})();
