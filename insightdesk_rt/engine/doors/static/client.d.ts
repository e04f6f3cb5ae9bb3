/**
 * Types of client.js, the browser client of the native protocol.
 *
 * A classic script or `import "/rt/client.js"` makes the global `insightdesk`; require() returns it.
 */

declare namespace insightdesk {
	interface Options {
		/** The token of every connection, if it needs no renewal. */
		token?: string;
		/** Asked for a token, and for a new one when the last is refused or about to expire. */
		getToken?: () => string | Promise<string>;
	}

	/** Make a client. `url` is the server; this page's own origin if left out. Nothing connects before `of`. */
	function connect(url?: string, options?: Options): Desk;

	/** The namespaces of one server, with one token. */
	interface Desk {
		/** Return a namespace, which connects when it is first asked for. */
		of(path: string): Channel;
		/** Leave all namespaces for good. */
		close(): void;
	}

	/** Hears an event. What it returns answers an event that asks. `offset`: of a logged event, for `since`. */
	type Listener<Data = any> = (data: Data, event: string, offset?: string) => unknown;

	/** The ack of a call: `ok`, and the fields of the event's answer. */
	interface Answer {
		ok: true;
		[field: string]: any;
	}

	/** One namespace. */
	interface Channel {
		readonly connected: boolean;
		/** Whether the last connect resumed the session, so that nothing was missed. */
		readonly recovered: boolean;
		/** The id of this client in the namespace. */
		readonly sid: string;

		on(event: "connect", listener: Listener<Connected>): this;
		on(event: "disconnect", listener: Listener<Disconnected>): this;
		on(event: "connect_error", listener: Listener<Refusal>): this;
		/** Hear an event of the server; `*` hears all. */
		on(event: string, listener: Listener): this;
		off(event: string, listener: Listener): this;

		/** Send an event. While offline it waits for the connection, unless it is `volatile`. */
		emit(event: string, data?: unknown, options?: { volatile?: boolean }): this;
		/** Send an event and wait for its ack, `timeout` ms at most. Rejects with DeskError. */
		call(event: string, data?: unknown, options?: { timeout?: number }): Promise<Answer>;

		/** Connect again after a final `disconnect`. */
		open(): this;
		/** Leave for good. */
		close(): void;
		/** Cut the connection as a bad network would, and come back. */
		drop(): void;
	}

	interface Connected {
		sid: string;
		recovered: boolean;
		pid?: string;
	}

	/** `code` is the close code of the websocket. After a `final` one the client does not come back by itself. */
	interface Disconnected {
		code: number;
		reason: string;
		final: boolean | undefined;
	}

	/** An error of the server, or of this client: DISCONNECTED, TIMEOUT or OFFLINE. */
	interface Refusal {
		code: string;
		message?: string;
		event?: string;
		field?: string;
		/** Seconds. */
		retryAfter?: number;
	}

	/** A refused call. */
	class DeskError extends Error implements Refusal {
		constructor(refusal: Refusal);
		readonly code: string;
		readonly event?: string;
		readonly field?: string;
		readonly retryAfter?: number;
	}
}

type Client = typeof insightdesk;

declare global {
	var insightdesk: Client;
}

export = insightdesk;
