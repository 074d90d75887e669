// Drives one official CometD client by lines of JSON: commands on stdin, what happens on stdout.
//   node driver.mjs <cometd-3|cometd-9>
// commands: {configure:{url, transport, headers}} {handshake:{ext}} {subscribe:channel} {unsubscribe:channel}
//           {batch:[channels]} {disconnect:true}
import { createRequire } from 'node:module';
import readline from 'node:readline';

const require = createRequire(import.meta.url);
const name = process.argv[2];
const nodeClient = await import('cometd-nodejs-client');
(nodeClient.adapt ?? nodeClient.default.adapt)();
const library = name === 'cometd-3' ? require(name) : await import(name);
const CometD = library.CometD;
const cometd = new CometD();
const subscriptions = new Map();
const tell = (what, message) => process.stdout.write(JSON.stringify({ what, message }) + '\n');

for (const channel of ['handshake', 'connect', 'subscribe', 'unsubscribe', 'disconnect', 'unsuccessful']) {
  cometd.addListener('/meta/' + channel, (message) => tell(channel, message));
}
const subscribe = (channel) => subscriptions.set(channel, cometd.subscribe(channel, (message) => tell('event', message)));
const commands = {
  configure({ url, transport, headers }) {
    for (const type of cometd.getTransportTypes()) {
      if (type !== transport) cometd.unregisterTransport(type);
    }
    cometd.configure({ url, requestHeaders: headers ?? {}, logLevel: 'error', autoBatch: true });
  },
  handshake: (properties) => cometd.handshake(properties),
  subscribe,
  unsubscribe: (channel) => cometd.unsubscribe(subscriptions.get(channel)),
  batch: (channels) => cometd.batch(() => channels.forEach(subscribe)),
  disconnect: () => cometd.disconnect(),
};
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  for (const [command, argument] of Object.entries(JSON.parse(line))) commands[command](argument);
}).on('close', () => process.exit(0));
tell('ready', name);
