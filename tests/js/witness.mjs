// Plays one scenario against a local Service Bus with Microsoft's JavaScript SDK and prints what it saw, as JSON.
// usage: node witness.mjs   with METERLINE_WITNESS_CONNECTION (a connection string) in the environment
import { ServiceBusClient } from "@azure/service-bus";

const connection = process.env.METERLINE_WITNESS_CONNECTION;
const seen = {};

async function refused(action) {
  try {
    await action();
  } catch (error) {
    return { code: error.code ?? null, message: String(error.message) };
  }
  return null;
}

function summary(message) {
  return {
    body: Buffer.isBuffer(message.body) ? message.body.toString() : message.body,
    sessionId: message.sessionId ?? null,
    messageId: String(message.messageId ?? ""),
    properties: message.applicationProperties ?? {},
    sequence: message.sequenceNumber === undefined ? null : Number(message.sequenceNumber),
    deliveryCount: message.deliveryCount ?? null,
    reason: message.deadLetterReason ?? null,
    description: message.deadLetterErrorDescription ?? null,
  };
}

const client = new ServiceBusClient(connection, { retryOptions: { maxRetries: 0, timeoutInMs: 20_000 } });
const wrong = new ServiceBusClient(connection.replace(/SharedAccessKey=[^;]*/, "SharedAccessKey=d3Jvbmc="), {
  retryOptions: { maxRetries: 0, timeoutInMs: 20_000 },
});

try {
  const sender = client.createSender("invoicing");
  await sender.sendMessages({ body: "single", sessionId: "a", messageId: "m-0", applicationProperties: { n: 1 } });
  const batch = await sender.createMessageBatch();
  seen.maxBatch = batch.maxSizeInBytes;
  for (const n of [1, 2, 3]) batch.tryAddMessage({ body: { n }, sessionId: "a", messageId: `m-${n}` });
  await sender.sendMessages(batch);
  await sender.sendMessages([{ body: "again", sessionId: "a", messageId: "m-2" }]); // a duplicate: dropped
  seen.noSession = await refused(() => sender.sendMessages({ body: "x" }));
  seen.tooLarge = await refused(() => sender.sendMessages({ body: Buffer.alloc(300_000), sessionId: "a" }));
  seen.scheduled = (
    await sender.scheduleMessages({ body: "later", sessionId: "a" }, new Date(Date.now() + 3_600_000))
  ).map(Number);
  await sender.cancelScheduledMessages((await sender.scheduleMessages({ body: "never", sessionId: "a" }, new Date(Date.now() + 3_600_000))));

  const session = await client.acceptSession("invoicing", "a");
  seen.busy = await refused(() => client.acceptSession("invoicing", "a"));
  await session.setSessionState(Buffer.from("state"));
  seen.state = (await session.getSessionState()).toString();
  seen.renewed = (await session.renewSessionLock()) instanceof Date;
  seen.peeked = (await session.peekMessages(10)).map(summary);
  const got = [];
  while (got.length < 4) got.push(...(await session.receiveMessages(4 - got.length, { maxWaitTimeInMs: 5_000 })));
  seen.received = got.map(summary);
  await session.completeMessage(got[0]);
  await session.deadLetterMessage(got[1], {
    deadLetterReason: "unreadable",
    deadLetterErrorDescription: "no such customer",
    ticket: "T-1",
  });
  await session.abandonMessage(got[2], { tried: "once" });
  await session.deferMessage(got[3]);
  const [again] = await session.receiveMessages(1, { maxWaitTimeInMs: 5_000 });
  seen.again = summary(again);
  await session.completeMessage(again);
  const [deferred] = await session.receiveDeferredMessages(got[3].sequenceNumber);
  seen.deferred = summary(deferred);
  await session.completeMessage(deferred);
  seen.empty = (await session.receiveMessages(1, { maxWaitTimeInMs: 300 })).length;
  await session.close();

  await sender.sendMessages({ body: "next", sessionId: "b", messageId: "b-1" });
  const next = await client.acceptNextSession("invoicing", { receiveMode: "receiveAndDelete" });
  seen.next = next.sessionId;
  seen.deleted = (await next.receiveMessages(1, { maxWaitTimeInMs: 5_000 })).map(summary);
  await next.close();

  const dead = client.createReceiver("invoicing", { subQueueType: "deadLetter" });
  const [letter] = await dead.receiveMessages(1, { maxWaitTimeInMs: 5_000 });
  seen.dead = summary(letter);
  seen.lockRenewed = (await dead.renewMessageLock(letter)) > new Date();
  await dead.completeMessage(letter);
  await dead.close();

  seen.plainReceiver = await refused(() =>
    client.createReceiver("invoicing").receiveMessages(1, { maxWaitTimeInMs: 1_000 }),
  );
  seen.unknown = await refused(() => client.createSender("nowhere").sendMessages({ body: "x" }));
  seen.wrongKey = await refused(() => wrong.createSender("plain").sendMessages({ body: "x" }));

  const plain = client.createSender("plain");
  await plain.sendMessages([1, 2, 3].map((n) => ({ body: n })));
  const handled = [];
  const receiver = client.createReceiver("plain");
  await new Promise((resolve, reject) => {
    receiver.subscribe({
      processMessage: async (message) => {
        handled.push(message.body);
        if (handled.length === 3) setTimeout(resolve, 200); // let the automatic completion of the last one leave
      },
      processError: async ({ error }) => reject(error),
    });
  });
  seen.subscribed = handled;
  await receiver.close();
  seen.left = (await client.createReceiver("plain").peekMessages(10)).length;
  console.log(JSON.stringify(seen));
} finally {
  await client.close();
  await wrong.close();
}
