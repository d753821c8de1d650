"use strict";
// Everything that came from outside is put into the page as text, never as markup. The one exception, a mail's HTML,
// goes into a sandboxed frame without scripts.

const POLL_MS = 1000;
const SHOWN = 200; // per channel; the rest stays reachable through the filter
const CHANNELS = ["push", "sms", "email"];
const PROVIDER_CHANNEL = { fcm: "push", apns: "push", webpush: "push", twilio: "sms", sendgrid: "email" };
const FRAME_HEAD =
  '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'; img-src data:">' +
  '<base target="_blank"><style>body{margin:24px;font:16px/1.5 system-ui,sans-serif;color:#191a22;color-scheme:light}</style>';

const $ = (id) => document.getElementById(id);
const inbox = { epoch: null, last: 0, link: "", messages: { push: [], sms: [], email: [] } };
const view = { query: "", address: { push: "", sms: "", email: "" }, opened: 0, mode: "html", read: new Set() };

function node(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function timeOf(message) {
  const element = node("time");
  const moment = new Date(message.at);
  element.dateTime = moment.toISOString();
  element.title = moment.toLocaleString();
  element.textContent = ago(message.at);
  return element;
}

function ago(at) {
  const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
  if (seconds < 45) return "now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`;
  return new Date(at).toLocaleDateString();
}

function tail(address) {
  return address.length > 14 ? `…${address.slice(-10)}` : address;
}

function deliveryLink(message) {
  if (!message.delivery_id) return node("span", "mono", "no delivery id");
  const link = node("a", "mono", message.delivery_id);
  link.href = inbox.link.replace("{id}", encodeURIComponent(message.delivery_id));
  link.target = "_blank";
  link.rel = "noopener";
  link.title = "Open this delivery";
  return link;
}

function shownMessages(channel) {
  const address = view.address[channel];
  const query = view.query;
  const found = [];
  const all = inbox.messages[channel];
  for (let index = all.length - 1; index >= 0 && found.length < SHOWN; index -= 1) {
    const message = all[index];
    if (address && message.to !== address) continue;
    if (query && !message.haystack.includes(query)) continue;
    found.push(message);
  }
  return found; // newest first
}

function drawPush(freshFrom) {
  const found = shownMessages("push");
  $("push-list").replaceChildren(...found.map((message) => {
    const item = node("li", message.n > freshFrom ? "fresh" : "");
    const top = node("div", "top");
    top.append(node("strong", "", message.title || "Notification"));
    if (message.extra.is_high) top.append(node("span", "tag", "high"));
    top.append(timeOf(message));
    const foot = node("div", "foot");
    const device = node("span", "", `Device ${tail(message.to)}`);
    device.title = message.to;
    foot.append(device, deliveryLink(message));
    item.append(top, node("p", "", message.body), foot);
    return item;
  }));
  $("push-none").hidden = found.length > 0;
}

function drawSms(freshFrom) {
  const found = shownMessages("sms").reverse();
  const list = $("sms-list");
  const screen = list.parentElement;
  const isAtEnd = screen.scrollHeight - screen.scrollTop - screen.clientHeight < 80;
  let previous = null;
  list.replaceChildren(...found.map((message) => {
    const item = node("li", message.n > freshFrom ? "fresh" : "");
    if (message.to !== previous) item.append(node("span", "label", message.to));
    previous = message.to;
    const foot = node("div", "foot");
    foot.append(timeOf(message));
    if (message.extra.segments > 1) foot.append(node("span", "", `${message.extra.segments} parts`));
    foot.append(deliveryLink(message));
    item.append(node("p", "", message.body), foot);
    return item;
  }));
  $("sms-none").hidden = found.length > 0;
  $("sms-sender").textContent = found.length ? found[found.length - 1].sender : "Messages";
  if (isAtEnd) screen.scrollTop = screen.scrollHeight;
}

function preview(message) {
  const text = message.body || new DOMParser().parseFromString(message.html, "text/html").body.textContent;
  return text.replace(/\s+/g, " ").trim().slice(0, 160);
}

function drawEmail() {
  const found = shownMessages("email");
  const focused = document.activeElement?.dataset?.n;
  $("email-list").replaceChildren(...found.map((message) => {
    const button = node("button", view.read.has(message.n) ? "" : "unread");
    button.type = "button";
    button.dataset.n = message.n;
    if (message.n === view.opened) button.setAttribute("aria-current", "true");
    button.append(
      node("b", "", message.to), timeOf(message),
      node("span", "subject", message.title || "(no subject)"), node("span", "preview", message.preview),
    );
    button.addEventListener("click", () => openMail(message));
    const item = node("li");
    item.append(button);
    return item;
  }));
  if (focused) $("email-list").querySelector(`[data-n="${focused}"]`)?.focus();
  $("email-none").hidden = found.length > 0;
}

function openMail(message) {
  view.opened = message.n;
  view.read.add(message.n);
  view.mode = message.html ? "html" : "text";
  $("mail-subject").textContent = message.title || "(no subject)";
  $("mail-sender").textContent = message.sender;
  $("mail-avatar").textContent = (message.sender[0] || "?").toUpperCase();
  $("mail-to").textContent = message.to;
  $("mail-time").replaceWith(Object.assign(timeOf(message), { id: "mail-time" }));
  const meta = [deliveryLink(message)];
  if (message.extra.headers?.["List-Unsubscribe"]) meta.push(node("span", "tag", "List-Unsubscribe"));
  $("mail-meta").replaceChildren(...meta);
  $("mail-frame").srcdoc = message.html ? FRAME_HEAD + message.html : "";
  $("mail-text").textContent = message.body || "This mail has no plain-text part.";
  $("view-html").disabled = !message.html;
  $("reader").hidden = false;
  $("reader-none").hidden = true;
  document.querySelector(".mail").classList.add("open");
  drawMode();
  drawEmail();
}

function closeMail() {
  view.opened = 0;
  $("reader").hidden = true;
  $("reader-none").hidden = false;
  document.querySelector(".mail").classList.remove("open");
  drawEmail();
}

function drawMode() {
  const isHtml = view.mode === "html";
  $("mail-frame").hidden = !isHtml;
  $("mail-text").hidden = isHtml;
  $("view-html").setAttribute("aria-pressed", isHtml);
  $("view-text").setAttribute("aria-pressed", !isHtml);
}

const ALL_LABELS = { push: "All devices", sms: "All numbers", email: "All mailboxes" };

function drawAddresses(channel) {
  const select = document.querySelector(`[data-addresses="${channel}"]`);
  const addresses = [...new Set(inbox.messages[channel].map((message) => message.to))].reverse().slice(0, 200);
  const key = addresses.join("\n");
  if (select.dataset.key === key && select.options.length) return;
  select.dataset.key = key;
  if (view.address[channel] && !addresses.includes(view.address[channel])) addresses.push(view.address[channel]);
  const label = channel === "push" ? tail : (address) => address;
  select.replaceChildren(new Option(ALL_LABELS[channel], ""), ...addresses.map((one) => new Option(label(one), one)));
  select.value = view.address[channel];
}

function draw(channels, freshFrom = Infinity) {
  for (const channel of channels) drawAddresses(channel);
  if (channels.includes("push")) drawPush(freshFrom);
  if (channels.includes("sms")) drawSms(freshFrom);
  if (channels.includes("email")) drawEmail();
}

function drawCounts(accepted) {
  const counts = { push: 0, sms: 0, email: 0 };
  for (const [provider, number] of Object.entries(accepted)) {
    if (PROVIDER_CHANNEL[provider]) counts[PROVIDER_CHANNEL[provider]] += number;
  }
  for (const element of document.querySelectorAll("[data-count]")) {
    element.textContent = counts[element.dataset.count].toLocaleString();
  }
}

function drawFaults(faults) {
  const active = Object.entries(faults).filter(([, modes]) => modes.length).map(([name, modes]) => `${name} ${modes.join(", ")}`);
  $("faults").hidden = active.length === 0;
  $("faults").textContent = `Fault on: ${active.join("; ")}`;
}

function setState(className, text) {
  if ($("state").lastElementChild.textContent === text) return;
  $("state").className = `pill ${className}`;
  $("state").lastElementChild.textContent = text;
}

function take(answer) {
  if (inbox.epoch !== answer.epoch) {
    const isFirst = inbox.epoch === null;
    inbox.epoch = answer.epoch;
    inbox.messages = { push: [], sms: [], email: [] };
    view.read.clear();
    if (!isFirst) closeMail();
    if (inbox.last > 0) { inbox.last = 0; return draw(CHANNELS); } // cleared: ask again from the start
  }
  inbox.link = answer.delivery_url;
  drawCounts(answer.accepted);
  drawFaults(answer.faults);
  const previous = inbox.last;
  const touched = new Set();
  for (const message of answer.messages) {
    inbox.last = Math.max(inbox.last, message.n);
    const list = inbox.messages[message.channel];
    if (!list) continue;
    if (message.channel === "email") message.preview = preview(message);
    message.haystack = [message.to, message.sender, message.title, message.body, message.delivery_id].join("\n").toLowerCase();
    list.push(message);
    if (list.length > 1000) list.shift();
    touched.add(message.channel);
  }
  if (touched.size || previous === 0) draw(previous === 0 ? CHANNELS : [...touched], previous || Infinity);
  const newest = inbox.messages.email.at(-1);
  if (previous === 0 && newest && matchMedia("(min-width: 761px)").matches) openMail(newest);
  if (previous > 0 && touched.size) $("announce").textContent = `${answer.messages.length} new`;
}

async function poll() {
  if (!document.hidden) {
    try {
      const response = await fetch(`/_sandbox/inbox?after=${inbox.last}&limit=1000`, { cache: "no-store" });
      if (!response.ok) throw new Error(response.statusText);
      take(await response.json());
      setState("live", "Live");
    } catch {
      setState("away", "Sandbox unreachable");
    }
  }
  setTimeout(poll, POLL_MS);
}

function tick() {
  const now = new Date();
  const clock = now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  for (const element of document.querySelectorAll(".clock")) element.textContent = clock;
  document.querySelector(".date").textContent = now.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });
  for (const element of document.querySelectorAll("time")) {
    if (element.dateTime) element.textContent = ago(Date.parse(element.dateTime));
  }
}

function show(channel) {
  document.querySelector("main").dataset.shown = channel;
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", button.dataset.show === channel);
  }
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}

function start() {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  $("theme").addEventListener("click", switchTheme);
  $("filter").addEventListener("input", (event) => {
    view.query = event.target.value.trim().toLowerCase();
    draw(CHANNELS);
  });
  $("back").addEventListener("click", closeMail);
  for (const mode of ["html", "text"]) {
    $(`view-${mode}`).addEventListener("click", () => { view.mode = mode; drawMode(); });
  }
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => show(button.dataset.show));
  }
  for (const select of document.querySelectorAll("[data-addresses]")) {
    select.addEventListener("change", () => {
      view.address[select.dataset.addresses] = select.value;
      draw([select.dataset.addresses]);
    });
  }
  if (CHANNELS.includes(location.hash.slice(1))) show(location.hash.slice(1));
  tick();
  setInterval(tick, 15000);
  poll();
}

start();
