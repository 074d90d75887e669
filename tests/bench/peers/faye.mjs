// A Faye server with WebSocket and long-polling at /bayeux: node faye.mjs PORT TIMEOUT_S
import { createRequire } from 'node:module';
import { httpServer, serve } from './publishing.mjs';

const faye = createRequire(import.meta.url)('faye');
const [port, timeout] = process.argv.slice(2).map(Number);
const bayeux = new faye.NodeAdapter({ mount: '/bayeux', timeout });
const server = httpServer();
bayeux.attach(server);
const client = bayeux.getClient();
serve(server, port, (channel, data) => client.publish(channel, data));
