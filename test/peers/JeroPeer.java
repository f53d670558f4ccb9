import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.zeromq.ZMQ;

/**
 * A peer on JeroMQ, which speaks ZMTP 2.0:
 *
 *   JeroPeer dealer ENDPOINT NAME COUNT   asks for echoes, one after the other, and prints each answer
 *   JeroPeer flood ENDPOINT NAME COUNT    sends messages without waiting, then asks for one echo
 *   JeroPeer router                       prints its port, then each message, and answers it with two frames of its own
 *
 * A message is printed as a line: its frames in hexadecimal, a blank between two, "-" for an empty one.
 */
public class JeroPeer {
  public static void main(String[] args) {
    ZMQ.Context context = ZMQ.context(1);
    if (args[0].equals("router")) router(context);
    ZMQ.Socket socket = context.socket(ZMQ.DEALER);
    if (!args[2].isEmpty()) socket.setIdentity(args[2].getBytes(StandardCharsets.UTF_8));
    socket.setReceiveTimeOut(10000);
    socket.connect(args[1]);
    int count = Integer.parseInt(args[3]);
    boolean asks = args[0].equals("dealer");
    for (int i = 0; i < count; i++) {
      send(socket, asks ? "echo.request" : "pub.x", i);
      if (asks) System.out.println(receive(socket));
    }
    if (!asks) {
      send(socket, "echo.request", count);
      System.out.println(receive(socket));
    }
    System.exit(0);
  }

  private static void send(ZMQ.Socket socket, String type, int i) {
    String body = "{\"req\": \"" + type + "\", \"target\": \"" + i + "\"}";
    socket.send(new byte[0], ZMQ.SNDMORE);
    socket.send(type.getBytes(StandardCharsets.UTF_8), ZMQ.SNDMORE);
    socket.send(body.getBytes(StandardCharsets.UTF_8), ZMQ.SNDMORE);
    socket.send(new byte[0], 0);
  }

  private static void router(ZMQ.Context context) {
    ZMQ.Socket socket = context.socket(ZMQ.ROUTER);
    System.out.println("port " + socket.bindToRandomPort("tcp://127.0.0.1"));
    while (true) {
      byte[] identity = socket.recv(0);
      List<byte[]> route = new ArrayList<byte[]>();
      while (socket.hasReceiveMore()) {
        byte[] frame = socket.recv(0);
        if (frame.length == 0) break;
        route.add(frame);
      }
      System.out.println(hex(identity) + " " + receive(socket));
      socket.send(identity, ZMQ.SNDMORE);
      for (byte[] frame : route) socket.send(frame, ZMQ.SNDMORE);
      socket.send(new byte[0], ZMQ.SNDMORE);
      socket.send("jero.reply".getBytes(StandardCharsets.UTF_8), ZMQ.SNDMORE);
      socket.send("{\"req\": \"jero.reply\"}".getBytes(StandardCharsets.UTF_8), ZMQ.SNDMORE);
      socket.send(new byte[0], 0);
    }
  }

  private static String receive(ZMQ.Socket socket) {
    StringBuilder line = new StringBuilder();
    do {
      byte[] frame = socket.recv(0);
      if (frame == null) return "nothing came";
      if (line.length() > 0) line.append(' ');
      line.append(hex(frame));
    } while (socket.hasReceiveMore());
    return line.toString();
  }

  private static String hex(byte[] bytes) {
    if (bytes.length == 0) return "-";
    StringBuilder text = new StringBuilder();
    for (byte b : bytes) text.append(String.format("%02x", b & 0xff));
    return text.toString();
  }
}
