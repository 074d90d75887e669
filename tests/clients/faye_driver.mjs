// Drives Faye's client by lines of JSON, as driver.mjs does the official one: commands on stdin, what happens on stdout.
//   node faye_driver.mjs
// commands: {configure:{url, transport, headers}} {handshake:{ext}} {subscribe:channel} {unsubscribe:channel}
//           {disconnect:true}
import { createRequire } from 'node:module';
import readline from 'node:readline';

const faye = createRequire(import.meta.url)('faye');
const tell = (what, message) => process.stdout.write(JSON.stringify({ what, message }) + '\n');
let client;
let properties = {};

const extension = {
  outgoing(message, callback) {
    if (message.channel === '/meta/handshake') {
      Object.assign(message, properties);
      tell('sent', message);
    }
    if (message.channel === '/meta/connect') tell('connecting', message);
    callback(message);
  },
  incoming(message, callback) {
    tell('received', message);
    if (message.channel.startsWith('/meta/')) tell(message.channel.slice('/meta/'.length), message);
    // Subscribers are given the data alone.
    else if ('data' in message) tell('event', message);
    callback(message);
  },
};
const commands = {
  configure({ url, transport, headers }) {
    client = new faye.Client(url);
    if (transport !== 'websocket') client.disable('websocket');
    for (const [name, value] of Object.entries(headers ?? {})) client.setHeader(name, value);
    client.addExtension(extension);
  },
  handshake(wanted) {
    properties = wanted;
    client.handshake(() => client.connect());
  },
  subscribe: (channel) => client.subscribe(channel, () => {}),
  unsubscribe: (channel) => client.unsubscribe(channel),
  disconnect: () => client.disconnect(),
};
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  for (const [command, argument] of Object.entries(JSON.parse(line))) commands[command](argument);
}).on('close', () => process.exit(0));
tell('ready', 'faye');
