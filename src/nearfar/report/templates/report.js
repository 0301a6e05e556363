"use strict";
(() => {
  const data = JSON.parse(document.getElementById("points").textContent);
  const sheet = document.getElementById("sheet");
  const count = data.x.length;
  // A style value may hold two megabytes at most, so it gets a short address of the same picture.
  const bytes = Uint8Array.from(atob(sheet.src.slice(sheet.src.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
  const address = URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
  document.documentElement.style.setProperty("--sheet", `url("${address}")`);

  // Pictures: one tile of the sheet, at a whole multiple of its size where pixels are shown crisp.
  const size = (wanted) => data.crisp ? data.tile * Math.max(1, Math.round(wanted / data.tile - 0.2)) : wanted;
  function picture(point, wanted) {
    const side = size(wanted), element = document.createElement("span");
    element.className = "pic" + (data.crisp ? " crisp" : "");
    element.style.cssText = `width:${side}px;height:${side}px;` +
      `background-size:${data.columns * side}px ${data.rows * side}px;` +
      `background-position:${-(point % data.columns) * side}px ${-Math.floor(point / data.columns) * side}px`;
    return element;
  }
  const name = (point) => data.names[data.label[point]];
  function write(parent, tag, words, kind = "") {
    const element = document.createElement(tag);
    element.textContent = words;
    if (kind) element.className = kind;
    parent.append(element);
    return element;
  }
  function pick(point, wanted, query, similarity) {
    const button = document.createElement("button");
    const right = query === null ? null : data.label[point] === data.label[query];
    button.type = "button";
    button.className = "pick" + (right === null ? "" : right ? " right" : " wrong");
    button.title = name(point);
    button.setAttribute("aria-label", right === null ? `Pin ${name(point)}`
      : `${name(point)}, ${right ? "right" : "wrong"}, similarity ${similarity.toFixed(2)}: pin it`);
    button.append(picture(point, wanted));
    if (right !== null) {
      write(button, "b", right ? "✓ " : "✗ ");
      button.append(similarity.toFixed(2));
    }
    button.onclick = () => pin(point, true);
    return button;
  }

  // The map: places are in [0, 1]; a view is a scale and the place at the middle.
  const canvas = document.getElementById("canvas"), pen = canvas.getContext("2d");
  const hover = document.getElementById("hover"), pinnedPanel = document.getElementById("pinned");
  const colours = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"];
  const view = { scale: 1, x: 0.5, y: 0.5 };
  let mode = "right", over = -1, pinned = -1, width = 0, height = 0, waiting = false;
  const style = (key) => getComputedStyle(document.documentElement).getPropertyValue(key).trim();
  const unit = () => Math.min(width, height) * 0.92 * view.scale;
  const left = (point) => (data.x[point] - view.x) * unit() + width / 2;
  const top = (point) => (data.y[point] - view.y) * unit() + height / 2;

  function mark(x, y, r, kind) {
    pen.beginPath();
    if (kind === 0) pen.arc(x, y, r, 0, 7);
    else if (kind === 1) pen.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
    else if (kind === 2) { pen.moveTo(x, y - r * 1.2); pen.lineTo(x + r * 1.1, y + r * 0.8); pen.lineTo(x - r * 1.1, y + r * 0.8); }
    else { pen.moveTo(x, y - r * 1.3); pen.lineTo(x + r * 1.3, y); pen.lineTo(x, y + r * 1.3); pen.lineTo(x - r * 1.3, y); }
    pen.closePath();
    pen.fill();
  }
  function draw() {
    waiting = false;
    const ratio = window.devicePixelRatio || 1;
    width = canvas.clientWidth; height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const right = style("--accent"), wrong = style("--contrast"), ink = style("--ink");
    const focus = pinned >= 0 ? pinned : over;
    // Where points stand far enough apart, their pictures take their place.
    const room = unit() / Math.sqrt(count), pictures = room > 44 && sheet.complete;
    const side = pictures ? Math.min(data.tile, 48) : 0;
    const r = Math.max(2.4, Math.min(6, room * 0.2));
    pen.imageSmoothingEnabled = !data.crisp;
    for (let point = 0; point < count; point++) {
      const x = left(point), y = top(point);
      if (x < -60 || y < -60 || x > width + 60 || y > height + 60) continue;
      const kin = focus < 0 || data.label[point] === data.label[focus] || data.near[focus].includes(point);
      pen.globalAlpha = kin ? 0.95 : 0.3;
      pen.fillStyle = pen.strokeStyle = mode === "class" ? colours[data.label[point] % 8] : data.right[point] ? right : wrong;
      if (pictures) {
        const sx = point % data.columns * data.tile, sy = Math.floor(point / data.columns) * data.tile;
        pen.lineWidth = 2.5;
        pen.drawImage(sheet, sx, sy, data.tile, data.tile, Math.round(x - side / 2), Math.round(y - side / 2), side, side);
        pen.strokeRect(Math.round(x - side / 2) - 1.5, Math.round(y - side / 2) - 1.5, side + 3, side + 3);
        if (mode === "right" && !data.right[point]) cross(x + side / 2 - 5, y - side / 2 + 5, 5);
      } else if (mode === "class") mark(x, y, r, Math.floor(data.label[point] / 8) % 4);
      else if (data.right[point]) mark(x, y, r, 0);
      else cross(x, y, r);
    }
    pen.globalAlpha = 1;
    if (pinned >= 0) {
      pen.strokeStyle = ink; pen.lineWidth = 1;
      for (const near of data.near[pinned]) { pen.beginPath(); pen.moveTo(left(pinned), top(pinned)); pen.lineTo(left(near), top(near)); pen.stroke(); }
    }
    for (const point of [over, pinned]) if (point >= 0) {
      pen.strokeStyle = ink; pen.lineWidth = 2;
      pen.beginPath(); pen.arc(left(point), top(point), side ? side * 0.8 : r + 5, 0, 7); pen.stroke();
    }
  }
  function cross(x, y, r) {
    pen.lineWidth = 2.4; pen.beginPath();
    pen.moveTo(x - r, y - r); pen.lineTo(x + r, y + r); pen.moveTo(x - r, y + r); pen.lineTo(x + r, y - r); pen.stroke();
  }
  function redraw() { if (!waiting) { waiting = true; requestAnimationFrame(draw); } }
  function zoom(factor, x = width / 2, y = height / 2) {
    const scale = factor === 0 ? 1 : Math.min(60, Math.max(0.8, view.scale * factor));
    if (factor === 0) { view.x = view.y = 0.5; } else {
      const share = 1 / unit() - view.scale / scale / unit();
      view.x += (x - width / 2) * share; view.y += (y - height / 2) * share;
    }
    view.scale = scale;
    redraw();
  }
  function nearestPoint(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let point = 0; point < count; point++) {
      const far = (left(point) - x) ** 2 + (top(point) - y) ** 2;
      if (far < least) { least = far; best = point; }
    }
    return best;
  }
  function show(point) {
    over = point;
    hover.hidden = point < 0;
    if (point >= 0) {
      hover.replaceChildren(picture(point, 96));
      write(hover, "div", name(point));
      write(hover, "div", data.right[point] ? "✓ nearest is right" : "✗ nearest is wrong");
      const x = left(point) + canvas.offsetLeft, y = top(point) + canvas.offsetTop;
      hover.style.left = Math.min(x + 16, Math.max(0, width - hover.offsetWidth - 4)) + "px";
      hover.style.top = (y + 16 + hover.offsetHeight > canvas.offsetTop + height ? y - 16 - hover.offsetHeight : y + 16) + "px";
    }
    redraw();
  }
  function pin(point, moveFocus) {
    pinned = point;
    pinnedPanel.replaceChildren();
    if (point < 0) write(pinnedPanel, "p", "Click a point, or press Enter on one: its picture and its nearest neighbours are pinned here.", "empty");
    else {
      write(pinnedPanel, "h3", name(point));
      write(pinnedPanel, "p", data.right[point] ? "✓ its nearest picture is right" : "✗ its nearest picture is wrong", "note");
      pinnedPanel.append(picture(point, 144));
      write(pinnedPanel, "h4", "nearest, of the pictures on this map");
      const picks = write(pinnedPanel, "div", "", "picks");
      data.near[point].forEach((near, place) => picks.append(pick(near, 64, point, data.similarity[point][place])));
      const link = write(pinnedPanel, "a", "All queries of this class");
      link.href = `#class-${data.label[point]}`;
      if (moveFocus) pinnedPanel.focus({ preventScroll: true });
    }
    redraw();
  }
  function key() {
    const words = document.getElementById("map-key");
    words.replaceChildren();
    if (mode === "class") words.append("One colour and shape a class; with many classes they repeat. ");
    else {
      write(words, "i", "●", "r"); words.append(" the nearest picture is right   ");
      write(words, "i", "✗", "w"); words.append(" it is wrong. ");
    }
    words.append("Drag to move; click, then scroll to zoom; close up, points become pictures.");
  }

  const touches = new Map();
  let moved = 0, gap = 0;
  const place = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  const apart = () => { const [a, b] = [...touches.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
  canvas.onpointerdown = (event) => {
    touches.set(event.pointerId, place(event)); moved = 0;
    if (touches.size === 2) gap = apart();
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => {
    const [x, y] = place(event), last = touches.get(event.pointerId);
    if (!last) { show(nearestPoint(x, y, 14)); return; }
    touches.set(event.pointerId, [x, y]);
    if (touches.size === 2) { const now = apart(); zoom(now / gap, x, y); gap = now; moved = 99; return; }
    moved += Math.abs(x - last[0]) + Math.abs(y - last[1]);
    view.x -= (x - last[0]) / unit(); view.y -= (y - last[1]) / unit();
    if (moved > 4) show(-1);
    redraw();
  };
  canvas.onpointerup = (event) => {
    touches.delete(event.pointerId);
    if (moved <= 4) pin(nearestPoint(...place(event), 22), false);
  };
  canvas.onpointercancel = (event) => touches.delete(event.pointerId);
  canvas.onpointerleave = () => show(-1);
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.002), ...place(event));
  }, { passive: false });
  canvas.onkeydown = (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      const from = over >= 0 ? over : pinned >= 0 ? pinned : nearestPoint(width / 2, height / 2, 1e9);
      let best = from, least = Infinity;
      for (let point = 0; point < count; point++) {
        const dx = left(point) - left(from), dy = top(point) - top(from);
        const along = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
        if (along > 1 && along + 2 * aside < least) { least = along + 2 * aside; best = point; }
      }
      show(best);
    } else if (event.key === "Enter" && over >= 0) pin(over, true);
    else if (event.key === "Escape") { show(-1); pin(-1, false); }
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else return;
    event.preventDefault();
  };
  for (const button of document.querySelectorAll("[data-zoom]")) button.onclick = () => zoom(Number(button.dataset.zoom));
  for (const button of document.querySelectorAll("[data-colour]")) button.onclick = () => {
    mode = button.dataset.colour;
    for (const other of document.querySelectorAll("[data-colour]")) other.setAttribute("aria-pressed", String(other === button));
    key(); redraw();
  };

  // The queries of one class, wherever a link "#class-…" points.
  const classPanel = document.getElementById("class-panel");
  const chosenClass = () => /^#class-(\d+)$/.exec(location.hash);
  function fillClass(label, limit) {
    const rows = [...data.label.keys()].filter((point) => data.label[point] === label);
    classPanel.replaceChildren();
    write(classPanel, "h3", data.names[label] ?? "No such class");
    const right = rows.filter((point) => data.right[point]).length;
    write(classPanel, "p", rows.length ? `${right} of its ${rows.length} pictures on the map find their class first. Each, and its nearest on the map:`
      : "None of its pictures is among those drawn for the map.", "note");
    for (const point of rows.slice(0, limit)) {
      const line = write(classPanel, "div", "", "picks line");
      line.append(pick(point, 52, null, 0));
      data.near[point].forEach((near, index) => line.append(pick(near, 52, point, data.similarity[point][index])));
    }
    if (rows.length > limit) write(classPanel, "p", `and ${rows.length - limit} more`, "note");
  }
  function showClass() {
    if (!chosenClass() || !classPanel) return;
    fillClass(Number(chosenClass()[1]), 40);
    classPanel.scrollIntoView({ block: "nearest" });
    classPanel.focus({ preventScroll: true });
  }
  window.addEventListener("hashchange", showClass);
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  sheet.decode?.().then(redraw, redraw);
  key(); draw();
  if (classPanel && !chosenClass()) fillClass(Number(classPanel.dataset.first), 8);
  showClass();
})();
