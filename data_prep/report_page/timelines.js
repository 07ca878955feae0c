// The time lines of the report: lanes of bars, and below them a number a clip, on one time axis with one cursor.
// Each is drawn by uPlot when its recording is opened; the data lie in the page as JSON (report_timelines.py writes them).
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("timelines-data").textContent);
  const STREAM = "#9fb3c8", NOBODY = "#9aa5b1", INK = "#616e7c", GRID = "#eef1f4";
  const VIEWS = ["#334e68", "#b44d12", "#2f855a", "#805ad5", "#b7791f", "#c53030"];
  const ROW = { true: 15, false: 22 }, GUTTER = 170, AXIS = 34, LINE = 84;

  const colour = (person) =>
    person === null ? STREAM : person < 0 ? NOBODY : page.colours[person % page.colours.length];

  // seconds as h:mm:ss, with decimals only where the step between ticks needs them
  const clock = (seconds, digits = 0) => {
    const rounded = Number(Math.abs(seconds).toFixed(digits));
    const hours = Math.floor(rounded / 3600), minutes = Math.floor(rounded / 60) % 60;
    const rest = (rounded % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
    const start = hours ? `${hours}:${String(minutes).padStart(2, "0")}` : `${minutes}`;
    return `${seconds < 0 ? "−" : ""}${start}:${rest}`;
  };
  const clocks = (u, times) => {
    const step = times.length > 1 ? times[1] - times[0] : 1;
    return times.map((time) => clock(time, step < 0.1 ? 2 : step < 1 ? 1 : 0));
  };

  // the name of a lane where it fits beside it
  const short = (name) => (name.length > 25 ? `${name.slice(0, 12)}…${name.slice(-12)}` : name);

  // from where to where each lane lies, in pixels from the top
  const layout = (lanes) => {
    let top = 0;
    return lanes.map((lane) => ({ lane, top, bottom: (top += ROW[lane.thin]) }));
  };

  function drawLanes(u, rows) {
    const { ctx, bbox } = u, scale = devicePixelRatio || 1, { min, max } = u.scales.x;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const { lane, top, bottom } of rows) {
      const inner = lane.thin ? 3 : 4;
      for (const [person, thin, spans] of lane.bars) {
        const inset = inner + (thin ? (bottom - top) / 2 - inner - 2 : 0);
        ctx.fillStyle = colour(person);
        for (let k = 0; k < spans.length; k += 2) {
          if (spans[k + 1] < min || spans[k] > max) continue;
          const left = u.valToPos(spans[k], "x", true), right = u.valToPos(spans[k + 1], "x", true);
          ctx.fillRect(left, bbox.top + (top + inset) * scale, Math.max(right - left, scale), (bottom - top - 2 * inset) * scale);
        }
      }
    }
    ctx.restore();
  }

  // what is there at a time, in words
  function at(recording, time) {
    const there = recording.lanes.filter((lane) =>
      lane.bars.some(([, , spans]) => spans.some((start, k) => k % 2 === 0 && start <= time && time < spans[k + 1])));
    const speaks = (lane) => {
      const who = lane.bars.filter(([, , spans]) => spans.some((start, k) => k % 2 === 0 && start <= time && time < spans[k + 1]));
      return lane.name.startsWith("speech") ? `${lane.name}: ${who.map(([person]) => (person < 0 ? "somebody" : `person ${person}`)).join(", ")}` : lane.name;
    };
    const numbers = recording.lines.map((line) => {
      let k = -1;
      while (k + 1 < line.times.length && line.times[k + 1] <= time) k++;
      const values = Object.values(line.views).map((numbers) => (k < 0 || numbers[k] === null ? "none" : numbers[k]));
      return `${line.name} ${values.join(" / ")}`;
    });
    return [clock(time, 1), there.map(speaks).join(", ") || "nothing", ...numbers].join("  ·  ");
  }

  function draw(details) {
    const recording = page.recordings[Number(details.dataset.recording)];
    const holder = details.querySelector(".plots"), output = details.querySelector("output");
    const plots = [], key = `recording ${details.dataset.recording}`;
    const all = { min: recording.start, max: recording.end };
    const show = (min, max) => {
      const length = Math.min(max - min, all.max - all.min);
      const from = Math.min(Math.max(min, all.min), all.max - length);
      for (const plot of plots) plot.setScale("x", { min: from, max: from + length });
    };
    const common = (height) => ({
      width: holder.clientWidth, height, legend: { show: false }, padding: [4, 12, 0, 0],
      cursor: { y: false, sync: { key, setSeries: false }, drag: { x: true, y: false, setScale: false }, points: { show: false } },
      hooks: {
        setCursor: [(u) => { if (u.cursor.left >= 0 && u.cursor.event) output.textContent = at(recording, u.posToVal(u.cursor.left, "x")); }],
        setSelect: [(u) => {
          if (u.select.width > 3) show(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        }],
      },
    });
    const time = { values: clocks, stroke: INK, grid: { stroke: GRID, width: 1 }, ticks: { stroke: "#cbd2d9", size: 4 }, size: AXIS, space: 70 };
    const x = { time: false, min: all.min, max: all.max };

    const rows = layout(recording.lanes), height = rows.length ? rows[rows.length - 1].bottom : 10;
    const lanes = common(height + AXIS + 4);
    const middles = rows.map(({ top, bottom }) => (top + bottom) / 2);
    lanes.scales = { x, y: { range: [0, height], dir: -1 } };
    lanes.series = [{}, { show: true, stroke: "transparent" }];
    lanes.axes = [time, {
      splits: () => middles, values: () => rows.map(({ lane }) => short(lane.name)), filter: (u, splits) => splits,
      stroke: INK, size: GUTTER, gap: 8, grid: { show: false }, ticks: { show: false }, font: "12px system-ui, sans-serif",
    }];
    lanes.hooks.drawAxes = [(u) => drawLanes(u, rows)];
    plots.push(new uPlot(lanes, [[all.min, all.max], [null, null]], holder));

    for (const line of recording.lines) {
      const names = Object.keys(line.views), floor = page.floors[line.name];
      const title = holder.appendChild(document.createElement("div"));
      title.className = "plot-name";
      title.append(line.name.replaceAll("_", " ") + (floor === undefined ? "" : ` (pixels of the encoder; below ${floor} is too small)`));
      names.forEach((name, k) => {
        const mark = document.createElement("i"), label = document.createElement("span");
        mark.style.background = VIEWS[k % VIEWS.length];
        label.append(mark, name);
        title.append(label);
      });
      const options = common(LINE + AXIS);
      // a number holds for the whole of its clip: the last one is drawn to the recording's end
      const times = [...line.times, all.max], values = names.map((name) => [...line.views[name], line.views[name].at(-1)]);
      options.scales = { x, y: { range: (u, min, max) => uPlot.rangeNum(Math.min(min ?? 0, 0), Math.max(max || 1, floor ?? 0), 0.1, true) } };
      options.series = [{}, ...names.map((name, k) => ({
        label: name, stroke: VIEWS[k % VIEWS.length], width: 1.5, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false },
      }))];
      options.axes = [time, { stroke: INK, size: GUTTER, gap: 8, grid: { stroke: GRID, width: 1 }, ticks: { show: false }, space: 22, font: "12px system-ui, sans-serif" }];
      if (floor !== undefined) options.hooks.draw = [(u) => {
        const y = u.valToPos(floor, "y", true);
        u.ctx.save();
        u.ctx.strokeStyle = "#b44d12";
        u.ctx.setLineDash([6, 4]);
        u.ctx.beginPath();
        u.ctx.moveTo(u.bbox.left, y);
        u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
        u.ctx.stroke();
        u.ctx.restore();
      }];
      plots.push(new uPlot(options, [times, ...values], holder));
    }

    holder.addEventListener("dblclick", () => show(all.min, all.max));
    details.querySelector(".buttons").addEventListener("click", (event) => {
      const { min, max } = plots[0].scales.x, middle = (min + max) / 2, half = (max - min) / 2;
      const views = { in: [middle - half / 2, middle + half / 2], out: [middle - 2 * half, middle + 2 * half], left: [min - half, max - half], right: [min + half, max + half], all: [all.min, all.max] };
      const wanted = views[event.target.dataset.do];
      if (wanted) show(...wanted);
    });
    new ResizeObserver(() => {
      for (const plot of plots) if (holder.clientWidth) plot.setSize({ width: holder.clientWidth, height: plot.height });
    }).observe(holder);
    details.plots = plots; // so that a test can ask what is seen
  }

  for (const details of document.querySelectorAll("details.timeline")) {
    const open = () => { if (details.open && !details.plots) draw(details); };
    details.addEventListener("toggle", open);
    open();
  }
})();
