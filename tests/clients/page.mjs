// A page with one official CometD client, set up by the parameters of its address: version, url, transport, extensions
// and, where the handshake is to carry them, user and password. Tells what happens by the function tellTheTest.
import { watchTheWire } from './wire.mjs';

const wanted = new URLSearchParams(location.search);
const version = wanted.get('version');
const folder = `./node_modules/${version}`;
const isModule = ['cometd-8', 'cometd-9'].includes(version);
const tell = (what, message) => {
  const { failure, ...rest } = message;
  tellTheTest(JSON.stringify({ what, message: failure ? { ...rest, failure: { httpCode: failure.httpCode } } : rest }));
};

watchTheWire(() => {}, (message) => tell('received', message));

// What is told while the page goes away may never arrive; what is stored is there on the next one.
function take(event) {
  const { eventId, version } = event.ext.calltag;
  const taken = JSON.parse(sessionStorage.getItem('taken') ?? '[]');
  sessionStorage.setItem('taken', JSON.stringify([...taken, [eventId, version]]));
  tell('event', event);
}

function runScript(src) {
  return new Promise((resolve, reject) => {
    document.head.append(Object.assign(document.createElement('script'), { src, onload: resolve, onerror: reject }));
  });
}

async function load(file, what) {
  if (isModule) return (await import(`${folder}/${file}.js`))[what];
  await runScript(`${folder}/${file}.js`);
  return window.org.cometd[what];
}

const cometd = new (await load('cometd', 'CometD'))();
for (const what of wanted.get('extensions').split(',')) cometd.registerExtension(what, new (await load(what, what))());
for (const type of cometd.getTransportTypes()) {
  if (type !== wanted.get('transport')) cometd.unregisterTransport(type);
}
for (const channel of ['handshake', 'connect', 'subscribe', 'disconnect']) {
  cometd.addListener(`/meta/${channel}`, (message) => tell(channel, message));
}
cometd.addListener('/meta/handshake', (message) => {
  if (message.successful) cometd.subscribe('/v2/me/calls', take);
});
window.addEventListener('pagehide', () => cometd.reload());
cometd.configure({ url: wanted.get('url'), logLevel: 'error' });
window.cometd = cometd;
const [user, password] = [wanted.get('user'), wanted.get('password')];
cometd.handshake(user ? { ext: { authentication: { user, password } } } : {});
