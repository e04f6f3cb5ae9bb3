// @ts-check
// A line chart of the last 15 minutes, drawn as SVG. The arrow keys or the pointer select a moment to read.
import { h, put, s } from "./dom.js";
import { clock } from "./format.js";

const HEIGHT = 150;
const LEFT = 48;
const RIGHT = 16; // half the width of the label "now"
const TOP = 10;
const BOTTOM = 20;
const SPAN_S = 900;
const GAP_S = 16; // samples further apart are not joined by a line: some are missing between them
const MOST = 0.95; // the chart is at least as high as this share of the values; single peaks far above are cut off
const FAR = 2.5; // a peak is far above if it exceeds the usual values by this factor
const ENOUGH = 20; // with fewer values, nothing is cut off

/** Make a chart. series: [{name, of(sample)}], at most two. show(value) returns its text. Returns {element, set(samples)}; samples have `at`. */
export function chart({ title, series, show }) {
	const svg = s("svg", { "aria-hidden": "true", focusable: "false" });
	const legend = h("p.legend");
	const when = h("span.soft");
	const plot = h("div.plot", { tabindex: 0, role: "group", onkeydown: keyed, onpointermove: pointed, onpointerleave: () => pick(-1), onblur: () => pick(-1) }, svg);
	const element = h("figure.chart.card", { data: { title } }, h("figcaption", h("h2", title), when, legend), plot);
	let samples = [];
	let picked = -1;
	let width = 0;

	new ResizeObserver(([entry]) => {
		const now = Math.round(entry.contentRect.width);
		if (now !== width) {
			width = now;
			draw();
		}
	}).observe(plot);

	function set(next) {
		const at = samples[picked]?.at;
		samples = next;
		picked = at === undefined ? -1 : samples.findIndex((one) => one.at === at);
		draw();
	}

	function draw() {
		const shown = samples[picked] ?? samples.at(-1);
		put(legend, series.map((one, n) => h("span.key", { data: { n } }, one.name, " ", h("b", shown ? show(one.of(shown)) : "–"))));
		when.textContent = picked >= 0 ? clock(shown.at * 1000) : "now";
		plot.setAttribute("aria-label", spoken());
		if (!width) return;
		const end = samples.at(-1)?.at ?? Date.now() / 1000;
		const all = samples.flatMap((sample) => series.map((one) => one.of(sample) ?? 0));
		const top = height(all);
		const x = (at) => LEFT + ((at - end + SPAN_S) / SPAN_S) * (width - LEFT - RIGHT);
		const y = (value) => TOP + (1 - Math.min(1, value / top)) * (HEIGHT - TOP - BOTTOM);
		svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
		svg.replaceChildren(
			...[0, 0.5, 1].flatMap((part) => [
				s("line.grid", { x1: LEFT, x2: width - RIGHT, y1: y(top * part), y2: y(top * part) }),
				s("text.tick.left", { x: LEFT - 6, y: y(top * part) + 4 }, show(top * part)),
			]),
			...[15, 10, 5, 0].map((minutes) => s("text.tick", { x: x(end - minutes * 60), y: HEIGHT - 4, }, minutes ? `−${minutes} min` : "now")),
			...series.flatMap((one, n) => runs(one).flatMap((run) => lines(run, n, x, y))),
			...mark(x, y),
			...peak(x, top),
		);
	}

	/** Return the unbroken runs of a series, each a list of [at, value]. */
	function runs(one) {
		/** @type {number[][][]} */
		const found = [];
		let last = -Infinity;
		for (const sample of samples) {
			const value = one.of(sample);
			if (value === null || value === undefined) continue;
			if (sample.at - last > GAP_S) found.push([]);
			found.at(-1)?.push([sample.at, value]);
			last = sample.at;
		}
		return found;
	}

	function lines(run, n, x, y) {
		if (run.length === 1) return [s("circle.point", { cx: x(run[0][0]), cy: y(run[0][1]), r: 2, "data-n": n })];
		const path = run.map(([at, value], index) => `${index ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
		const area = `${path}L${x(run.at(-1)[0]).toFixed(1)} ${y(0)}L${x(run[0][0]).toFixed(1)} ${y(0)}Z`;
		return [n === 0 && s("path.area", { d: area }), s("path.line", { d: path, "data-n": n })].filter(Boolean);
	}

	/** Return a label for the greatest value that is cut off, if any is. */
	function peak(x, top) {
		const cut = samples.flatMap((sample) => series.map((one) => [one.of(sample) ?? 0, sample.at])).filter(([value]) => value > top);
		if (!cut.length) return [];
		const [value, at] = cut.reduce((a, b) => (b[0] > a[0] ? b : a));
		const right = x(at) > width / 2;
		return [
			s("path.peak", { d: `M${x(at) - 4} ${TOP + 1}l4 -6l4 6z` }),
			s("text.tick.peak", { x: x(at) + (right ? -8 : 8), y: TOP + 12, class: right ? "left" : "first" }, `peak ${show(value)}`),
		];
	}

	function mark(x, y) {
		const sample = samples[picked];
		if (!sample) return [];
		const dots = series.map((one, n) => [one.of(sample), n]).filter(([value]) => value !== null && value !== undefined);
		return [
			s("line.cross", { x1: x(sample.at), x2: x(sample.at), y1: TOP, y2: HEIGHT - BOTTOM }),
			...dots.map(([value, n]) => s("circle.point", { cx: x(sample.at), cy: y(value), r: 3.5, "data-n": n })),
		];
	}

	function pick(index) {
		picked = index;
		draw();
	}

	function pointed(event) {
		if (!samples.length) return;
		const box = plot.getBoundingClientRect();
		const at = samples.at(-1).at - SPAN_S + ((event.clientX - box.left - LEFT) / (width - LEFT - RIGHT)) * SPAN_S;
		let best = 0;
		samples.forEach((sample, index) => {
			if (Math.abs(sample.at - at) < Math.abs(samples[best].at - at)) best = index;
		});
		if (best !== picked) pick(best);
	}

	function keyed(event) {
		const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
		if (!step || !samples.length) return;
		event.preventDefault();
		const from = picked < 0 ? samples.length : picked;
		pick(Math.min(samples.length - 1, Math.max(0, from + step)));
	}

	function spoken() {
		const texts = series.map((one) => {
			const shown = samples[picked];
			const found = samples.map(one.of).filter((value) => value !== null && value !== undefined);
			if (shown) return `${one.name} ${show(one.of(shown))}`;
			if (!found.length) return `${one.name}: nothing yet`;
			return `${one.name}: now ${show(found.at(-1))}, from ${show(Math.min(...found))} to ${show(Math.max(...found))}`;
		});
		return `${title}, ${samples[picked] ? `at ${clock(samples[picked].at * 1000)}` : "last 15 minutes"}. ${texts.join("; ")}`;
	}

	draw();
	return { element, set };
}

/** Return the upper end of the scale: nearly all values fit, and a single peak far above the rest does not flatten the others. */
function height(values) {
	const most = Math.max(0, ...values);
	const seen = values.filter((value) => value > 0).sort((a, b) => a - b);
	const usual = seen.length < ENOUGH ? most : seen[Math.floor(seen.length * MOST)];
	return ceiling(most > usual * FAR ? usual * 1.25 : most);
}

/** Return the next round number above a value whose half is round too. */
function ceiling(value) {
	if (value <= 2) return value > 1 ? 2 : 1;
	const power = 10 ** Math.floor(Math.log10(value));
	return [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].map((n) => n * power).find((round) => round >= value && (round >= 10 || round % 2 === 0)) ?? value;
}
