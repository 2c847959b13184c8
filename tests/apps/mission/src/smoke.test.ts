import { expect, test } from "bun:test";
import { SHIPS } from "./ships.ts";

// Nothing is waited for here: who runs this says that the app is ready.
test("the harbour is open", async () => {
  const reply = await fetch("http://127.0.0.1:3000/ships");
  expect(reply.status).toBe(200);
  expect(await reply.json()).toEqual(SHIPS);
});
