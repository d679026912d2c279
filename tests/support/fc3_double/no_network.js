// Loaded into `s` before anything else: writes down every name it looks up and every address it dials, and refuses.
'use strict';

const dns = require('dns');
const fs = require('fs');
const net = require('net');

function refuse(what) {
  fs.appendFileSync(process.env.DIALLED, `${what}\n`);
  throw new Error(`no network here: ${what}`);
}

dns.lookup = (name) => refuse(`lookup ${name}`);
dns.promises.lookup = async (name) => refuse(`lookup ${name}`);
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function dial(...args) {
  const options = Array.isArray(args[0]) ? args[0][0] : args[0];
  // A pipe to a child has a path and no port.
  if (options && options.port) refuse(`connect ${options.host}:${options.port}`);
  return connect.apply(this, args);
};
