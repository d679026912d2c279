// npm `openai`: chat, streaming, tools and errors against the service at $URL. Ends non-zero when something is not so.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.URL}/v1`, apiKey: "none-needed", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "What is the capital of France?" }];

const answer = await client.chat.completions.create({ model, messages, temperature: 0 });
assert.match(answer.choices[0].message.content, /Paris/);

const stream = await client.chat.completions.create({
  model, messages, temperature: 0, stream: true, stream_options: { include_usage: true },
});
let text = "", pieces = 0, usage = null;
for await (const chunk of stream) {
  const piece = chunk.choices[0]?.delta?.content;
  if (piece) { text += piece; pieces += 1; }
  usage = chunk.usage ?? usage;
}
assert.match(text, /Paris/);
assert.ok(pieces > 3 && usage.completion_tokens > 3);

const parameters = { type: "object", properties: { celsius: { type: "integer" } }, required: ["celsius"], additionalProperties: false };
const called = await client.chat.completions.create({
  model, messages: [{ role: "user", content: "Make it 21 degrees." }], max_tokens: 100, temperature: 0,
  tools: [{ type: "function", function: { name: "set_temperature", strict: true, parameters } }], tool_choice: "required",
});
const call = called.choices[0].message.tool_calls[0].function;
assert.equal(call.name, "set_temperature");
assert.ok(Number.isInteger(JSON.parse(call.arguments).celsius));

await assert.rejects(client.chat.completions.create({ model: "gpt-4o", messages }), OpenAI.NotFoundError);
console.log("passed");
