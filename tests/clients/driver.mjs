// Drives one official CometD client by lines of JSON: commands on stdin, what happens on stdout.
//   node driver.mjs <cometd-3|cometd-5|cometd-7|cometd-8|cometd-9>
// commands: {configure:{url, transport, headers, extensions}} {handshake:{ext}} {subscribe:channel} {unsubscribe:channel}
//           {snapshot:channel} {batch:[channels]} {reload:true} {disconnect:true}
import readline from 'node:readline';

import { adapt, load } from './official.mjs';
import { watchTheWire } from './wire.mjs';

adapt();
const name = process.argv[2];
const { CometD, extensions } = await load(name);
const META = ['handshake', 'connect', 'subscribe', 'unsubscribe', 'disconnect', 'unsuccessful'];
// What a failure refers to (requests, sockets) is not for lines of JSON.
const plain = (name, value) => (['exception', 'transport', 'websocket', 'xhr'].includes(name) ? undefined : value);
const tell = (what, message) => process.stdout.write(JSON.stringify({ what, message }, plain) + '\n');

// What a page holds: a client, how it was set up, and what it subscribed to.
let page = { settings: {}, properties: {}, subscriptions: new Map() };

function loadPage({ settings, properties, subscriptions }) {
  const loaded = { cometd: new CometD(), settings, properties, subscriptions: new Map() };
  const { url, transport, headers, extensions: wanted } = settings;
  // A page that is gone does nothing any more.
  const tellFromPage = (what, message) => page === loaded && tell(what, message);
  for (const channel of META) loaded.cometd.addListener('/meta/' + channel, (message) => tellFromPage(channel, message));
  for (const what of wanted ?? []) loaded.cometd.registerExtension(what, new extensions[what]());
  for (const type of loaded.cometd.getTransportTypes()) {
    if (type !== transport) loaded.cometd.unregisterTransport(type);
  }
  loaded.cometd.configure({ url, requestHeaders: headers ?? {}, logLevel: 'error', autoBatch: true });
  loaded.subscribe = (channel, properties = {}) =>
    loaded.subscriptions.set(
      channel,
      loaded.cometd.subscribe(channel, (message) => tellFromPage('event', message), properties),
    );
  // As applications do: they subscribe whenever they have shaken hands.
  loaded.cometd.addListener('/meta/handshake', (message) => {
    if (message.successful) [...subscriptions.keys()].forEach((channel) => loaded.subscribe(channel));
  });
  page = loaded;
}

function reload() {
  page.cometd.reload();
  loadPage(page);
  page.cometd.handshake(page.properties);
}

const commands = {
  configure: (settings) => loadPage({ ...page, settings }),
  handshake: (properties) => page.cometd.handshake((page.properties = properties)),
  subscribe: (channel) => page.subscribe(channel),
  snapshot: (channel) => page.subscribe(channel, { ext: { calltag: { snapshot: true } } }),
  unsubscribe: (channel) => page.cometd.unsubscribe(page.subscriptions.get(channel)),
  batch: (channels) => page.cometd.batch(() => channels.forEach((channel) => page.subscribe(channel))),
  reload,
  disconnect: () => page.cometd.disconnect(),
};
watchTheWire(
  (message) => message.channel === '/meta/handshake' && tell('sent', message),
  (message) => tell('received', message),
);
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  for (const [command, argument] of Object.entries(JSON.parse(line))) commands[command](argument);
}).on('close', () => process.exit(0));
tell('ready', name);
