// What a page may write with client.d.ts, and what the types refuse. Compiled by bin/test with conf/tsconfig.json; not run.
import type { Channel, Connected, Listener } from "../../insightdesk_rt/engine/doors/static/client";

const desk = insightdesk.connect("https://help.example.com", { getToken: async () => "a token" });
insightdesk.connect();
const tickets: Channel = desk.of("/tickets");

tickets
	.on("connect", ({ recovered }: Connected) => recovered || tickets.emit("ticket:subscribe", { ticketId: "42" }))
	.on("ticket:created", ({ ticket }, _event, offset) => tickets.emit("ticket:subscribe", { ticketId: ticket.ticketId, since: offset }))
	.on("disconnect", ({ code, reason, final }) => console.info(code.toFixed(), reason.trim(), final));
const hear: Listener<{ ticketId: string }> = ({ ticketId }) => ticketId;
tickets.on("ticket:deleted", hear).off("ticket:deleted", hear);
tickets.emit("ticket:typing", { ticketId: "42" }, { volatile: true });

export async function view(): Promise<number> {
	try {
		const { viewers } = await tickets.call("ticket:view", { ticketId: "42", state: "replying" }, { timeout: 5000 });
		return viewers.length;
	} catch (error) {
		if (error instanceof insightdesk.DeskError) return error.retryAfter ?? error.code.length;
		throw error;
	}
}

// @ts-expect-error a token is a text
insightdesk.connect("/", { token: 42 });
// @ts-expect-error there is no such option
tickets.call("ticket:view", {}, { volatile: true });
// @ts-expect-error only the client itself changes it
tickets.connected = true;
// @ts-expect-error private
tickets._offset;
// @ts-expect-error `final` is not a text
tickets.on("disconnect", ({ final }) => final.trim());
