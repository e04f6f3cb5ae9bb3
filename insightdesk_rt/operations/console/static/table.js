// @ts-check
// A table whose rows change in place, so that the element under the pointer or with the focus stays.
import { h, put } from "./dom.js";

const FOCUSABLE = "a, button, input, select";

/**
 * A column. `sort` is the API's name of the order. `num`: aligned right. A `wide` column is hidden first when there is
 * little room. A `name` column gets more room. A `fix` column is not broken into lines. If a table has `keep` columns, a
 * phone shows only these, and the rest when a row is opened.
 * @typedef {{label: string, cell: (row: any) => any, sort?: string, num?: boolean, wide?: boolean, name?: boolean,
 *   fix?: boolean, keep?: boolean, more?: boolean, title?: string}} Column
 */

/**
 * Make a table. key(row): its identity. empty: the text without rows. detail(row): more, behind a button.
 * sort: the present order, with "-" in front if descending; onsort(name): change it.
 * Returns {element, set(rows)}.
 * @param {{label: string, columns: Column[], key: (row: any) => any, empty: any, detail?: (row: any) => any,
 *   sort?: string, onsort?: (name: string) => void}} options
 */
export function table({ label, columns, key, empty, detail, sort = "", onsort }) {
	const known = new Map(); // key → {row, text, more}
	const opened = new Set();
	/** @type {Column[]} */
	const all = detail ? [{ label: "", cell: opener, more: true }, ...columns] : columns;
	const body = h("tbody", { role: "rowgroup" });
	const none = h("p.empty", { hidden: true }, empty);
	const element = h("div.table", { "aria-busy": "true", class: columns.some((column) => column.keep) ? "brief" : "" },
		h("table", { role: "table", "aria-label": label },
			h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, all.map(head))),
			body,
		),
		none,
	);
	skeleton();

	function head(column) {
		const down = sort === `-${column.sort}`;
		const up = sort === column.sort;
		const order = !column.sort ? null : down ? "descending" : up ? "ascending" : "none";
		const text = column.label || h("span.hidden", column.more ? "More" : "Actions");
		const inside = column.sort && onsort
			? h("button.sort", { type: "button", onclick: () => onsort(down ? column.sort : `-${column.sort}`), data: { order } }, text)
			: text;
		return h("th", { role: "columnheader", scope: "col", "aria-sort": order, class: look(column), title: column.title }, inside);
	}

	function look(column) {
		return [column.num && "num", column.wide && "wide", column.name && "name", column.fix && "fix", column.sort && "can-sort", column.more && "more", column.keep && "keep", !column.label && !column.more && "acts"]
			.filter(Boolean).join(" ");
	}

	function skeleton() {
		put(body, [0, 1, 2, 3].map(() => h("tr", { role: "row", "aria-hidden": "true" }, all.map((column) => h("td", { role: "cell", class: look(column) }, h("span.skeleton", "…"))))));
	}

	function opener(row) {
		const id = key(row);
		const open = opened.has(id);
		return h("button.opener", {
			type: "button", "aria-expanded": String(open), "aria-label": open ? "Less" : "More",
			onclick() {
				if (!opened.delete(id)) opened.add(id);
				known.get(id).text = "";
				set(rows);
			},
		});
	}

	function cells(row) {
		return all.map((column) => h("td", { role: "cell", class: look(column), data: { label: column.label } }, h("div", column.cell(row))));
	}

	function redraw(entry, row) {
		const at = [...entry.tr.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
		put(entry.tr, cells(row));
		if (at >= 0) entry.tr.querySelectorAll(FOCUSABLE)[at]?.focus();
		entry.more?.remove();
		entry.more = null;
		entry.tr.classList.toggle("open", opened.has(key(row)));
		if (detail && opened.has(key(row))) {
			entry.more = h("tr.detail", { role: "row" }, h("td", { role: "cell", colspan: all.length }, detail(row)));
		}
	}

	let rows = [];
	function set(next) {
		rows = next;
		element.removeAttribute("aria-busy");
		none.hidden = rows.length > 0;
		const shown = [];
		const keys = new Set();
		for (const row of rows) {
			const id = key(row);
			const text = JSON.stringify(row);
			let entry = known.get(id);
			if (!entry) known.set(id, (entry = { tr: h("tr", { role: "row" }), text: "", more: null }));
			if (entry.text !== text) {
				entry.text = text;
				redraw(entry, row);
			}
			keys.add(id);
			shown.push(entry.tr, ...(entry.more ? [entry.more] : []));
		}
		for (const id of known.keys()) if (!keys.has(id)) known.delete(id);
		place(shown);
	}

	function place(shown) {
		const wanted = new Set(shown);
		for (const tr of [...body.children]) if (!wanted.has(tr)) tr.remove();
		shown.forEach((tr, index) => {
			if (body.children[index] !== tr) body.insertBefore(tr, body.children[index] ?? null);
		});
	}

	return { element, set };
}

/** Buttons for the pages of a list. `go(cursor)` is called with "" for the first one. Returns {element, set(next, text), reset()}. */
export function pager(go) {
	const before = []; // cursors of the pages before this one
	let now = "";
	let next = null;
	const back = h("button.small", { type: "button", disabled: true, onclick: () => turn(before.pop()) }, "Previous");
	const on = h("button.small", {
		type: "button", disabled: true, onclick() {
			before.push(now);
			turn(next);
		},
	}, "Next");
	const status = h("span.soft");
	const element = h("div.pager", status, back, on);

	function turn(cursor) {
		now = cursor;
		back.disabled = before.length === 0;
		on.disabled = true;
		go(cursor);
	}

	return {
		element,
		/** Return to the first page, because the filter or order has changed. */
		reset() {
			before.length = 0;
			now = "";
		},
		set(cursor, text = "") {
			next = cursor;
			on.disabled = !next;
			back.disabled = before.length === 0;
			status.textContent = before.length || next ? [`Page ${before.length + 1}`, text].filter(Boolean).join(" · ") : text;
		},
	};
}
