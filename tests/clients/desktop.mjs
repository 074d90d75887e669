// A page that works as a desktop written for Web Services does, with the version of the official client that these have,
// over long-polling. Parameters of its address: kind (workspace, widget or mobile), url, user, password.
//   workspace  starts its contact-centre session, and subscribes afterwards
//   widget     subscribes to all of "me" by one pattern, and starts its session afterwards
//   mobile     starts its session once all of five subscriptions are confirmed
// Tells what happens by the function tellTheTest, and works by the functions of `desktop`.
import { watchTheWire } from './wire.mjs';

const wanted = Object.fromEntries(new URLSearchParams(location.search));
const tell = (what, message) => tellTheTest(JSON.stringify({ what, message }));
// Requests to the API are no messages.
const ApiRequest = window.XMLHttpRequest;
watchTheWire(() => {}, (message) => tell('received', message));

const KINDS = {
  workspace: {
    cometd: '/genesys/cometd',
    read: ['me?subresources=features,devices,channels', 'services?fields=*', 'groups?type=dispositions&fields=*'],
    channels: ['voice', 'chat'],
    subscriptions: ['/v2/me/calls', '/v2/me/devices', '/v2/me/channels'],
    startsFirst: true,
  },
  widget: {
    cometd: '/api/v2/notifications',
    read: ['me?subresources=features,devices,channels,settings'],
    channels: ['voice'],
    subscriptions: ['/v2/me/*'],
  },
  mobile: {
    cometd: '/api/v2/notifications',
    read: ['me?subresources=*'],
    channels: ['voice'],
    subscriptions: ['devices', 'channels', 'calls', 'chats', 'emails'].map((name) => `/v2/me/${name}`),
  },
};
const kind = KINDS[wanted.kind];
const calls = new Map();
let device;
let state = '';

function request(method, path, body, headers = {}) {
  return new Promise((resolve, reject) => {
    const xhr = new ApiRequest();
    xhr.open(method, `${wanted.url}/api/v2/${path}`);
    xhr.withCredentials = true;
    xhr.setRequestHeader('Content-Type', 'application/json');
    xhr.setRequestHeader('Accept', 'application/json');
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    xhr.onload = () => resolve({ status: xhr.status, ...JSON.parse(xhr.responseText) });
    xhr.onerror = reject;
    xhr.send(body && JSON.stringify(body));
  });
}

const post = async (path, operationName, parameters = {}) => {
  const answer = await request('POST', path, { operationName, ...parameters });
  if (answer.statusCode !== 0 && answer.statusCode !== 7) throw new Error(`${operationName}: ${answer.statusMessage}`);
  return answer;
};

function runScript(src) {
  return new Promise((resolve, reject) => {
    document.head.append(Object.assign(document.createElement('script'), { src, onload: resolve, onerror: reject }));
  });
}

await runScript('./node_modules/cometd-3/cometd.js');
const cometd = new window.org.cometd.CometD();
cometd.unregisterTransport('websocket');
cometd.unregisterTransport('callback-polling');
cometd.configure({ url: wanted.url + kind.cometd, logLevel: 'error' });

// As that of Web Services does on every call: who the parties are, from within the notification of the ringing.
async function introduce(call) {
  const { phoneNumber } = device;
  const party = { username: wanted.user, path: `/users/${wanted.user}` };
  await post(`me/calls/${call.id}`, 'UpdateUserData', { userData: { [`WWE_PARTY_${phoneNumber}`]: party } });
}

function take({ channel, data }) {
  if (channel === '/v2/me/devices' && data.devices) {
    state = data.devices[0].userState?.displayName ?? data.devices[0].deviceState;
  }
  if (data.messageType === 'ErrorMessage') tell('error', { text: data.errorMessage });
  if (data.messageType !== 'CallStateChangeMessage') return;
  const { call } = data;
  const isNew = !calls.has(call.id);
  if (call.state === 'Released') calls.delete(call.id);
  else calls.set(call.id, call);
  tell('call', { type: data.notificationType, id: call.id, state: call.state, parent: call.parentCallUri ?? '',
    data: call.userData ?? {}, can: call.capabilities, others: call.participants.map((each) => each.phoneNumber) });
  if (isNew && call.state === 'Ringing') introduce(call).catch((error) => tell('error', { text: String(error) }));
}

const handshake = () => new Promise((resolve, reject) => {
  cometd.handshake((reply) => (reply.successful ? resolve() : reject(new Error('no handshake'))));
});
const subscribe = (channel) => new Promise((resolve, reject) => {
  cometd.subscribe(channel, take, (reply) => (reply.successful ? resolve() : reject(new Error(reply.error))));
});
const start = () => post('me', 'StartContactCenterSession', { channels: kind.channels });
const listen = async () => {
  await handshake();
  await Promise.all(kind.subscriptions.map(subscribe));
};

async function signIn() {
  const unknown = await request('GET', kind.read[0]);
  const basic = { Authorization: `Basic ${btoa(`${wanted.user}:${wanted.password}`)}` };
  const { user } = await request('GET', kind.read[0], undefined, basic);
  for (const path of kind.read.slice(1)) await request('GET', path);
  device = user.devices[0];
  const steps = kind.startsFirst ? [start, listen] : [listen, start];
  for (const step of steps) await step();
  const { user: again } = await request('GET', 'me/?subresources=devices,calls,channels,interactions,chats');
  for (const call of again.calls) calls.set(call.id, call);
  await post('me/channels/voice', 'Ready');
  tell('signed-in', { before: unknown.status, phoneNumber: device.phoneNumber, features: user.features.length });
}

window.desktop = {
  state: () => state,
  call: (id, operation, parameters) => post(`me/calls/${id}`, operation, parameters),
  // As mobile clients do: the consult call is the one that names the other as its parent.
  consultOf: (id) => [...calls.values()].find((each) => each.parentCallUri?.endsWith(`/calls/${id}`))?.id ?? '',
  dispose: (id) => post(`me/devices/${device.id}`, 'SetCallDisposition', { callUuid: id, disposition: 'sold' }),
  signOut: async () => {
    await post('me', 'EndContactCenterSession');
    const left = new Promise((resolve) => cometd.addListener('/meta/disconnect', resolve));
    cometd.disconnect();
    await left;
    await request('POST', 'logout');
    return (await request('GET', 'me')).status;
  },
};
signIn().catch((error) => tell('error', { text: String(error) }));
