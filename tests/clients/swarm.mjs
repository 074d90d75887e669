// Many official CometD clients in one process. The first line of stdin says which, as JSON:
//   {url, channel, password, clients: [{version, transport, ack, user}]}
// It is answered with `true` when all of them are subscribed. Each further line is answered with what every client has
// seen so far, in that order: {events: [[call, version, eventId, replayId]], handshakes, missed, failures: [{...}]},
// and with one message of each shape that came since the line before: {seen: [...], received: [{...}]}
import readline from 'node:readline';

import { adapt, load } from './official.mjs';
import { watchTheWire } from './wire.mjs';

// The clients are many users; what one of them is given as a cookie must not be shown by another.
const none = { storeCookie: (uri, header, done) => done(), retrieveCookies: (context, uri, done) => done(null, []) };
adapt({ cookies: none });
const shapes = new Map();
const shapeOf = (message) => JSON.stringify(message, (_, value) => (Object(value) === value ? value : typeof value));
watchTheWire(
  () => {},
  (message) => {
    const shape = `${message.channel} ${shapeOf(message)}`;
    if (!shapes.has(shape)) shapes.set(shape, message);
  },
);
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n');

function failureOf({ channel, error, failure = {} }) {
  const { httpCode, websocketCode, reason } = failure;
  return { channel, error, httpCode, websocketCode, reason: String(reason) };
}

async function join({ url, channel, password }, { version, transport, ack, user }) {
  const { CometD, extensions } = await load(version);
  const cometd = new CometD();
  const seen = { events: [], handshakes: 0, missed: 0, failures: [] };
  if (ack) cometd.registerExtension('ack', new extensions.AckExtension());
  for (const type of cometd.getTransportTypes()) if (type !== transport) cometd.unregisterTransport(type);
  cometd.configure({ url, logLevel: 'error' });
  cometd.addListener('/meta/unsuccessful', (message) => seen.failures.push(failureOf(message)));
  cometd.addListener('/meta/connect', (message) => (seen.missed += message.ext?.calltag?.missed ? 1 : 0));
  await new Promise((resolve) => {
    cometd.addListener('/meta/handshake', (message) => {
      seen.handshakes += 1;
      if (message.successful) cometd.subscribe(channel, take, (reply) => reply.successful && resolve());
    });
    cometd.handshake({ ext: { authentication: { user, password } } });
  });
  function take({ data, ext: { calltag } }) {
    seen.events.push([data.call.id, calltag.version, calltag.eventId, calltag.replayId]);
  }
  return seen;
}

const settings = JSON.parse((await lines.next()).value);
const swarm = await Promise.all(settings.clients.map((client) => join(settings, client)));
say(true);
for await (const _ of lines) {
  say({ seen: swarm, received: [...shapes.values()].filter(Boolean) });
  for (const shape of shapes.keys()) shapes.set(shape, null);
}
process.exit(0);
