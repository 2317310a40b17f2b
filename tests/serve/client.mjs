// The official Node client against our server: what it needs comes as JSON on stdin; prints what passed.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const { url, key, model, messages } = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
const ask = (options) => client.chat.completions.create({ model, messages, max_tokens: 6, ...options });
const parameters = {
  type: "object",
  properties: { key: { enum: ["C", "G"] } },
  required: ["key"],
  additionalProperties: false,
};

const whole = await ask({});
assert.equal(whole.choices[0].finish_reason, "length");
assert.ok(whole.usage.prompt_tokens_details.audio_tokens > 0);
console.log("whole");

let text = "", usage = null;
for await (const chunk of await ask({ stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
console.log("stream");

const probable = await ask({ logprobs: true, top_logprobs: 2 });
assert.equal(probable.choices[0].logprobs.content.length, probable.usage.completion_tokens);
assert.equal(probable.choices[0].logprobs.content[0].top_logprobs.length, 2);
console.log("logprobs");

const form = { type: "json_schema", json_schema: { name: "tune", schema: parameters, strict: true } };
const facts = JSON.parse((await ask({ response_format: form, max_tokens: 40 })).choices[0].message.content);
assert.ok(["C", "G"].includes(facts.key));
console.log("schema");

const tools = [{ type: "function", function: { name: "play", parameters } }];
const called = client.chat.completions.stream({
  model, messages, tools, tool_choice: "required", parallel_tool_calls: false, max_tokens: 60,
});
const [call] = (await called.finalChatCompletion()).choices[0].message.tool_calls;
assert.equal(call.function.name, "play");
assert.ok(["C", "G"].includes(JSON.parse(call.function.arguments).key));
console.log("tools");

await assert.rejects(ask({ frequency_penalty: 1 }), (error) => {
  assert.ok(error instanceof OpenAI.BadRequestError);
  assert.equal(error.code, "unsupported_parameter");
  assert.equal(error.param, "frequency_penalty");
  assert.ok(error.requestID);
  return true;
});
await assert.rejects(new OpenAI({ baseURL: url, apiKey: "wrong", maxRetries: 0 }).models.list(), OpenAI.AuthenticationError);
console.log("errors");

const ids = [];
for await (const one of client.models.list()) ids.push(one.id);
assert.deepEqual(ids, [model]);
console.log("models");
