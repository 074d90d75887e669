// The official CometD clients in Node: loads one version with its extensions, and gives it what a browser would have.
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const EXTENSIONS = ['AckExtension', 'ReloadExtension', 'TimeStampExtension', 'TimeSyncExtension'];

const nodeClient = await import('cometd-nodejs-client');

// What the client logs must not get between the lines of the driver.
for (const level of ['debug', 'info', 'log']) console[level] = console.error;

class Storage {
  #items = new Map();
  getItem = (name) => this.#items.get(name) ?? null;
  setItem = (name, value) => this.#items.set(name, String(value));
  removeItem = (name) => this.#items.delete(name);
}

// Makes Node what the clients take for a browser; `options` are those of the adapter.
export function adapt(options) {
  (nodeClient.adapt ?? nodeClient.default.adapt)(options);
  window.sessionStorage = new Storage();
}

// The class `CometD` and the extensions of one version, as in `cometd-9`.
export async function load(version) {
  const isModule = ['cometd-8', 'cometd-9'].includes(version);
  const get = async (path, what) => (isModule ? (await import(path))[what] : require(path));
  const CometD = isModule ? await get(version, 'CometD') : require(version).CometD;
  const extensions = {};
  for (const what of EXTENSIONS) extensions[what] = await get(`${version}/${what}.js`, what);
  return { CometD, extensions };
}
