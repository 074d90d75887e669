// CometD's server for Node with long-polling, at any path: node cometd.mjs PORT TIMEOUT_S
import { createRequire } from 'node:module';
import { httpServer, serve } from './publishing.mjs';

const cometd = createRequire(import.meta.url)('cometd-nodejs-server');
const [port, timeout] = process.argv.slice(2).map(Number);
const bayeux = cometd.createCometDServer({ timeout: timeout * 1000, maxInterval: 60_000 });
serve(httpServer(bayeux.handle), port, (channel, data) => bayeux.createServerChannel(channel).publish(null, data));
