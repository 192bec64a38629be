"use strict";

const at = (id) => document.getElementById(id);
const SETTINGS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "system"];
const DEFAULTS = { temperature: 0.8, top_p: 1, top_k: 0, min_p: 0, max_tokens: 256, seed: "", system: "" };

/** What was said: { role, content }. */
let messages = [];
/** What the server says of itself, or null until it has. */
let props = null;
/** Ends the answer that is on its way. */
let running = null;

// Private windows may refuse to keep anything: then nothing is kept.
function kept(name) {
  try { return sessionStorage.getItem(name); } catch { return null; }
}
function keep(name, value) {
  try { sessionStorage.setItem(name, value); } catch { /* nothing is kept */ }
}

function headers() {
  const all = { "Content-Type": "application/json" };
  const key = at("key").value.trim();
  if (key) all.Authorization = `Bearer ${key}`;
  return all;
}

/** What went wrong with an answer, in the server's words. */
async function wrong(response) {
  if (response.status === 401) at("keyfield").hidden = false;
  try {
    const body = await response.json();
    return body.error.message;
  } catch {
    return `the server answers ${response.status}`;
  }
}

async function describe() {
  try {
    const response = await fetch("props", { headers: headers() });
    if (!response.ok) throw new Error(await wrong(response));
    props = await response.json();
  } catch (error) {
    say(`${error.message}`, true);
    return;
  }
  at("model").textContent = `${props.model}, ${props.weights}, context ${props.n_ctx}`;
  at("recipe").textContent = props.recipe;
  document.title = `parloop: ${props.model}`;
  at("systemfield").hidden = !props.chat;
  at("ask").textContent = props.chat ? "Message" : "Text to go on from (this model only continues texts)";
  at("fresh").textContent = props.chat ? "New conversation" : "Clear";
  say("");
}

function say(text, bad) {
  at("status").textContent = text;
  at("status").className = bad ? "wrong" : "";
}

/** A message on the page; returns what changes while it comes. */
function show(role, content) {
  const box = document.createElement("article");
  box.className = `message ${role}`;
  const who = document.createElement("h3");
  who.textContent = role === "user" ? "You" : role === "system" ? "System" : "Model";
  const thoughts = document.createElement("details");
  thoughts.hidden = true;
  const summary = document.createElement("summary");
  summary.textContent = "Thoughts";
  const thought = document.createElement("div");
  thought.className = "text";
  thoughts.append(summary, thought);
  const text = document.createElement("div");
  text.className = "text";
  text.textContent = content;
  const figures = document.createElement("p");
  figures.className = "figures";
  box.append(who, thoughts, text, figures);
  at("log").append(box);
  at("log").scrollTop = at("log").scrollHeight;
  return { box, text, thoughts, thought, figures };
}

/** Blocks of code stand apart once the text is whole. */
function layOut(element, content) {
  const parts = content.split(/^```[^\n]*\n?/m);
  if (parts.length < 3) return;
  element.textContent = "";
  parts.forEach((part, i) => {
    if (i % 2 === 0) {
      element.append(part);
      return;
    }
    const block = document.createElement("pre");
    const code = document.createElement("code");
    code.textContent = part.replace(/\n$/, "");
    block.tabIndex = 0;
    block.append(code);
    element.append(block);
  });
}

/** The fields of a request that are set on the page. */
function sampling() {
  const body = {};
  for (const name of SETTINGS.slice(0, 6)) {
    const field = at(name);
    if (!field.checkValidity()) throw new Error(`${field.labels[0].firstChild.textContent.trim()}: ${field.validationMessage}`);
    if (field.value !== "") body[name] = Number(field.value);
  }
  return body;
}

/** Reads a stream of events, and hands over the JSON of each. */
async function events(response, each) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (!data || data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      each(event);
    }
  }
}

async function send() {
  const text = at("message").value;
  if (running || !text.trim() || !props) return;
  let body;
  try {
    body = sampling();
  } catch (error) {
    say(error.message, true);
    return;
  }
  body.stream = true;
  body.stream_options = { include_usage: true };
  if (props.chat) {
    const system = at("system").value.trim();
    const said = [...messages, { role: "user", content: text }];
    body.messages = system ? [{ role: "system", content: system }, ...said] : said;
  } else {
    body.prompt = text;
  }
  const asked = show("user", text);
  const answer = show("assistant", "");
  const state = { content: "", thought: "", pieces: 0, first: 0, last: 0, usage: null, finish: "" };
  const begin = performance.now();
  running = new AbortController();
  busy(true);
  say("Reading the prompt…");
  try {
    const path = props.chat ? "v1/chat/completions" : "v1/completions";
    const options = { method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal };
    const response = await fetch(path, options);
    if (!response.ok) throw new Error(await wrong(response));
    await events(response, (event) => take(event, state, answer, begin));
  } catch (error) {
    if (error.name === "AbortError") state.finish = "stopped";
    else {
      say(error.message, true);
      if (!state.content) {
        asked.box.remove();
        answer.box.remove();
        return;
      }
    }
  } finally {
    running = null;
    busy(false);
  }
  layOut(answer.text, state.content);
  answer.figures.textContent = figures(state, begin);
  if (!at("status").className) say(state.finish === "stopped" ? "Stopped." : "Done.");
  if (props.chat) {
    messages.push({ role: "user", content: text }, { role: "assistant", content: state.content });
    at("message").value = "";
  }
  at("message").focus();
}

function take(event, state, answer, begin) {
  if (event.usage) state.usage = event.usage;
  const choice = event.choices && event.choices[0];
  if (!choice) return;
  if (choice.finish_reason) state.finish = choice.finish_reason;
  const delta = choice.delta || {};
  const piece = choice.text || delta.content || "";
  const thought = delta.reasoning_content || "";
  if (!piece && !thought) return;
  const now = performance.now();
  if (!state.pieces) {
    state.first = now;
    say("Writing…");
  }
  state.pieces += 1;
  state.last = now;
  if (thought) {
    state.thought += thought;
    answer.thoughts.hidden = false;
    answer.thought.textContent = state.thought;
  }
  if (piece) {
    state.content += piece;
    answer.text.append(piece);
  }
  answer.figures.textContent = figures(state, begin);
  const log = at("log");
  // Whoever reads further up stays there.
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 160) log.scrollTop = log.scrollHeight;
}

function figures(state, begin) {
  if (!state.pieces) return state.finish === "stopped" ? "stopped before the first token" : "";
  const tokens = state.usage ? state.usage.completion_tokens : state.pieces;
  const seconds = (state.last - state.first) / 1000;
  const parts = [`${tokens} tokens`];
  if (seconds > 0 && tokens > 1) parts.push(`${((tokens - 1) / seconds).toFixed(1)} tokens/s`);
  parts.push(`first after ${((state.first - begin) / 1000).toFixed(2)} s`);
  if (state.usage) {
    const cached = (state.usage.prompt_tokens_details || {}).cached_tokens || 0;
    parts.push(`prompt of ${state.usage.prompt_tokens}${cached ? `, ${cached} of them kept` : ""}`);
  }
  if (state.finish === "length") parts.push("cut at the limit");
  if (state.finish === "stopped") parts.push("stopped");
  return parts.join(", ");
}

function busy(on) {
  at("send").disabled = on;
  at("stop").disabled = !on;
  at("log").setAttribute("aria-busy", String(on));
}

function fresh() {
  if (running) running.abort();
  messages = [];
  at("log").textContent = "";
  say("");
  at("message").focus();
}

// The rows of the last passes.

const SHOWN = 20;
const SVG = "http://www.w3.org/2000/svg";
let passes = [];
let seen = 0;

function make(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Requests that follow each other are told apart. */
const colour = (request) => `hsl(${(request * 137) % 360} 65% 68%)`;

function range([, , first, rows]) {
  return rows === 1 ? `${first}` : `${first}–${first + rows - 1}`;
}

function draw(loops) {
  const [left, column, top, lane] = [38, 18, 4, Math.max(30, Math.min(72, 150 / loops))];
  const height = top + loops * lane + 16;
  const svg = make("svg", { viewBox: `0 0 ${left + SHOWN * column + 4} ${height}`, "aria-hidden": "true" });
  for (let r = 0; r < loops; r += 1) {
    const y = top + r * lane;
    svg.append(make("text", { x: 4, y: y + lane / 2 + 3 }, `loop ${r + 1}`));
    svg.append(make("line", { x1: 0, x2: left + SHOWN * column + 4, y1: y + lane, y2: y + lane }));
  }
  const shown = passes.slice(-SHOWN);
  shown.forEach((pass, i) => {
    const x = left + i * column;
    for (let r = 0; r < loops; r += 1) {
      const spans = pass.spans.filter((span) => span[1] === r);
      // A text that is being written has a row of a loop, a prompt many: those get more room, not all of it.
      const weights = spans.map((span) => 1 + Math.log2(span[3]));
      const whole = weights.reduce((sum, w) => sum + w, 0);
      const unit = Math.min(16, (lane - 4) / Math.max(whole, 1));
      let y = top + r * lane + 2;
      spans.forEach((span, n) => {
        const tall = weights[n] * unit;
        const box = make("rect", { x: x + 1, y, width: column - 2, height: Math.max(tall - 1, 0.5), rx: 2, fill: colour(span[0]) });
        box.append(make("title", {}, `pass ${pass.number}, request ${span[0]}, loop ${r + 1}, positions ${range(span)}`));
        svg.append(box);
        if (tall >= 10 && span[3] === 1 && span[2] < 10000) {
          svg.append(make("text", { x: x + column / 2, y: y + tall / 2 + 2.5, class: "in" }, `${span[2]}`));
        }
        y += tall;
      });
    }
  });
  if (shown.length) {
    svg.append(make("text", { x: left, y: height - 4 }, `pass ${shown[0].number}`));
    const last = make("text", { x: left + SHOWN * column, y: height - 4, "text-anchor": "end" }, `${shown.at(-1).number}`);
    svg.append(last);
  }
  at("rows").replaceChildren(svg);
}

function describeRows(answer) {
  const last = passes.at(-1);
  if (!last) return;
  const rows = last.spans.reduce((sum, span) => sum + span[3], 0);
  const texts = new Set(last.spans.map((span) => span[0])).size;
  const per = (last.micros / 1000).toFixed(last.micros < 10000 ? 2 : 0);
  at("rowssay").textContent =
    `Last pass: ${rows} ${rows === 1 ? "row" : "rows"} of ${texts} ${texts === 1 ? "text" : "texts"} in ${per} ms; ` +
    `${answer.loops} ${answer.loops === 1 ? "loop" : "loops"}; ${answer.running} running, ${answer.waiting} waiting.`;
}

async function watch() {
  let pause = 2000;
  try {
    if (!document.hidden && (at("keyfield").hidden || at("key").value !== "")) {
      const response = await fetch(`rows?after=${seen}`, { headers: headers() });
      if (response.ok) {
        const answer = await response.json();
        if (answer.passes.length) {
          passes = passes.concat(answer.passes).slice(-64);
          seen = passes.at(-1).number;
          draw(answer.loops);
          describeRows(answer);
        }
        pause = running || answer.running ? 250 : 1500;
      }
    }
  } catch { /* the server is not there: it may come back */ }
  setTimeout(watch, pause);
}

document.addEventListener("DOMContentLoaded", () => {
  for (const name of SETTINGS) {
    at(name).value = kept(name) ?? DEFAULTS[name];
    at(name).addEventListener("change", () => keep(name, at(name).value));
  }
  at("key").value = kept("key") ?? "";
  at("keyfield").hidden = !at("key").value;
  at("keyfield").addEventListener("submit", (event) => event.preventDefault());
  at("key").addEventListener("change", () => {
    keep("key", at("key").value);
    describe();
  });
  if (window.matchMedia("(max-width: 760px)").matches) at("settings").open = false;
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  at("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) running.abort();
  });
  at("stop").addEventListener("click", () => running && running.abort());
  at("fresh").addEventListener("click", fresh);
  draw(1);
  describe();
  watch();
  at("message").focus();
});
