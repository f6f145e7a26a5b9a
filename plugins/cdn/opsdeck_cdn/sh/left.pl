# Say who is still being served. On standard input: Caddy's admin socket, the front's log, its inode and size at the
# last look. Caddy counts what it has under way on each way out, be it HTTP/1, 2 or 3, a download or a WebSocket.
use strict;
use warnings;
use IO::Socket::UNIX;
$SIG{ALRM} = sub { exit 1 };
alarm 10;
my ($socket, $log, $inode, $size) = map { my $line = <STDIN>; chomp $line; $line } 1 .. 4;

my $link = IO::Socket::UNIX->new(Peer => $socket) or die "no answer on $socket: $!\n";
print $link "GET /reverse_proxy/upstreams HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n";
my $said = do { local $/; <$link> };
$said =~ m{^HTTP/1\.[01] 200 } or die "Caddy does not tell its upstreams\n";
my $busy = 0;
$busy += $1 while $said =~ /"num_requests":\s*(\d+)/g;

my $open = grep { /\S/ } `ss -Htn state established '( sport = :443 )'`;

my $asked = 0;
my @now = stat $log;
@now = (0) x 13 unless @now;
if ($now[1] == $inode && open(my $file, '<:raw', $log)) {
    seek($file, $size, 0);
    while (my $line = <$file>) { $asked++ unless $line =~ /"OpsDeck-probe"/ }
    close($file);
}
print "open $open\nbusy $busy\nasked $asked\nlog $now[1] $now[7]\nend\n";
