// npm `ai` with `@ai-sdk/openai`, whose models speak Responses: text, streamed, an object, a tool, against $URL.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({ baseURL: `${process.env.URL}/v1`, apiKey: "none-needed" });
const ask = { model: openai(process.env.MODEL), temperature: 0, maxRetries: 0 };
const prompt = "What is the capital of France?";

const answer = await generateText({ ...ask, prompt, system: "You are a helpful assistant." });
assert.match(answer.text, /Paris/);
assert.ok(answer.usage.outputTokens > 3 && answer.finishReason === "stop");

const pieces = [];
for await (const piece of streamText({ ...ask, prompt }).textStream) pieces.push(piece);
assert.ok(pieces.length > 3);
assert.match(pieces.join(""), /Paris/);

const cut = await generateText({ ...ask, prompt, maxOutputTokens: 2 });
assert.equal(cut.finishReason, "length");

const messages = [
  { role: "user", content: prompt }, ...answer.response.messages, { role: "user", content: "And of Italy?" },
];
const next = await generateText({ ...ask, messages, maxOutputTokens: 20, providerOptions: { openai: { store: false } } });
assert.ok(next.text);
await assert.rejects(generateText({ ...ask, messages }), /store: false/);

const schema = z.object({ room: z.string(), celsius: z.number().int() });
const { object } = await generateObject({ ...ask, schema, prompt: "Office, 21 degrees.", maxOutputTokens: 100 });
assert.ok(Number.isInteger(object.celsius));

const called = await generateText({
  ...ask, prompt: "Make it 21 degrees.", maxOutputTokens: 100, toolChoice: "required",
  tools: { set_temperature: tool({ inputSchema: z.object({ celsius: z.number().int() }) }) },
});
assert.equal(called.toolCalls[0].toolName, "set_temperature");
assert.ok(Number.isInteger(called.toolCalls[0].input.celsius));
console.log("passed");
