// Drives one official CometD client by lines of JSON: commands on stdin, what happens on stdout.
//   node driver.mjs <cometd-3|cometd-5|cometd-7|cometd-8|cometd-9>
// commands: {configure:{url, transport, headers, extensions}} {handshake:{ext}} {subscribe:channel} {unsubscribe:channel}
//           {batch:[channels]} {disconnect:true}
import { createRequire } from 'node:module';
import readline from 'node:readline';

const require = createRequire(import.meta.url);
const name = process.argv[2];
const nodeClient = await import('cometd-nodejs-client');
(nodeClient.adapt ?? nodeClient.default.adapt)();
const isModule = ['cometd-8', 'cometd-9'].includes(name);
const load = async (path, what) => (isModule ? (await import(path))[what] : require(path));
const CometD = isModule ? await load(name, 'CometD') : require(name).CometD;
const cometd = new CometD();
const extensions = {};
for (const what of ['AckExtension', 'TimeSyncExtension', 'TimeStampExtension']) {
  extensions[what] = await load(`${name}/${what}.js`, what);
}
const subscriptions = new Map();
const tell = (what, message) => process.stdout.write(JSON.stringify({ what, message }) + '\n');

for (const channel of ['handshake', 'connect', 'subscribe', 'unsubscribe', 'disconnect', 'unsuccessful']) {
  cometd.addListener('/meta/' + channel, (message) => tell(channel, message));
}
const subscribe = (channel) => subscriptions.set(channel, cometd.subscribe(channel, (message) => tell('event', message)));
const commands = {
  configure({ url, transport, headers, extensions: wanted }) {
    for (const what of wanted ?? []) cometd.registerExtension(what, new extensions[what]());
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
