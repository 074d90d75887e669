// What the servers have in common: they take lines of JSON from stdin, and end with it, or on SIGTERM.
//   {"message": {...}}                        what the events carry from now on
//   {"publish": [[channel, ...], ...], "first": number, "pause_ms": 0}
//                                             an event for each list, on each of its channels; they are numbered from
//                                             `first` on, in a pair of user data that also subscribers look for
//   {"collect": true}                         collect garbage, where Node was started with --expose-gc
// Each line is answered with "done" when all of it was given to the server.
import http from 'node:http';
import readline from 'node:readline';

const told = (what) => process.stdout.write(`${what}\n`);
let message = {};

const event = (number) => {
  const { call } = message;
  return { ...message, call: { ...call, userData: { ...call.userData, bench: `bench-${number}` } } };
};
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function carryOut(line, publish) {
  const asked = JSON.parse(line);
  if (asked.message) message = asked.message;
  if (asked.collect) globalThis.gc?.();
  let number = asked.first ?? 0;
  for (const channels of asked.publish ?? []) {
    const data = event(number);
    for (const channel of channels) publish(channel, data);
    number += 1;
    if (asked.pause_ms) await pause(asked.pause_ms);
  }
  told('done');
}

// Listens, tells "ready", and publishes what it is asked for with `publish(channel, data)`.
export function serve(server, port, publish) {
  let last = Promise.resolve();
  readline.createInterface({ input: process.stdin })
    .on('line', (line) => { last = last.then(() => carryOut(line, publish)); })
    .on('close', () => process.exit(0));
  process.on('SIGTERM', () => process.exit(0));
  server.listen({ port, host: '127.0.0.1', backlog: 4096 }, () => told('ready'));
}

export const httpServer = (handler) => http.createServer(handler);
